"""Warm-up: compile a model's kernels into the cache and measure which regions are worth it on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..ir import Model
from ..kernels import on_compile
from ..measure import interleaved
from .place.measured import region_digest, region_times
from .session import Session

if TYPE_CHECKING:
    from ..onnx_io.source import ModelSource


@dataclass(frozen=True, slots=True)
class RegionTiming:
    """One region, or the whole model: seconds on kernels and in onnxruntime (medians of interleaved runs)."""

    part: str
    kernels: float
    onnxruntime: float

    @property
    def runs_on(self) -> str:
        """The faster of the two: "kernels" or "onnxruntime"."""
        return "kernels" if self.kernels <= self.onnxruntime else "onnxruntime"


def warmup(
    model: ModelSource | Model,
    feeds: Mapping[str, Any],
    *,
    threads: int | None = None,
    seconds: float = 0.5,
    progress: Callable[[str], None] | None = None,
) -> list[RegionTiming]:
    """Compile and measure; later sessions leave to onnxruntime the regions that it runs faster.

    Regions are measured one by one, each for about `seconds` in either runtime, then the model as a whole: all its
    regions go back to onnxruntime where they do not pay for the borders between them. Where the cache cannot be
    written, nothing is remembered and sessions use the kernels. `progress` is told the kernels that are compiled.
    """
    remove = on_compile(progress) if progress is not None else None
    try:
        session = Session(model, threads, kernels=True)
        arrays = session.region_inputs(feeds)
    finally:
        if remove is not None:
            remove()
    if not arrays:
        return []
    measured: dict[str, tuple[float, float]] = {}
    timings = []
    for index, (region, given) in enumerate(arrays.items()):
        pair = _race(partial(region.run, given), partial(region.in_onnxruntime().run, given), seconds)
        timings.append(RegionTiming(f"region {index}", *pair))
        measured[region_digest(region.segment)] = pair
    times = region_times(session.threads)
    times.add(measured)
    mixed = Session(model, threads)
    if mixed.regions:
        whole = Session(model, threads, kernels=False)
        pair = _race(partial(mixed.run, None, feeds), partial(whole.run, None, feeds), seconds)
        timings.append(RegionTiming("whole model", *pair))
        if pair[0] > pair[1]:
            times.add({region_digest(region.segment): pair for region in mixed.regions})
    return timings


def _race(kernels: Callable[[], object], ort: Callable[[], object], seconds: float) -> tuple[float, float]:
    first, second = interleaved({"kernels": kernels, "onnxruntime": ort}, seconds=seconds)
    return first.median, second.median
