"""Warm-up: compile a model's kernels into the cache and measure which regions are worth it on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels import on_compile
from ..measure import interleaved
from .execute.region import Region
from .place.measured import region_digest, region_times
from .session import Session


@dataclass(frozen=True, slots=True)
class RegionTiming:
    """One region, or the whole model: seconds on kernels and in onnxruntime (medians of interleaved runs)."""

    what: str
    kernels: float
    stock: float


def warmup(
    model: Any,
    feeds: Mapping[str, Any],
    *,
    threads: int | None = None,
    seconds: float = 0.5,
    progress: Callable[[str], None] | None = None,
) -> list[RegionTiming]:
    """Compile and measure; what onnxruntime runs faster is left to it by sessions made from now on.

    Regions are measured one by one, then the model as a whole, whose regions all go back where the parts do not pay for
    the borders between them. Nothing is stored where the cache cannot be written: then sessions use the kernels.
    """
    remove = on_compile(progress) if progress is not None else None
    try:
        session = Session(model, threads, kernels=True)
        arrays: dict[Region, list[Any]] = {}
        session.run_watched(feeds, lambda region, given: arrays.update({region: [np.array(a) for a in given]}))
    finally:
        if remove is not None:
            remove()
    if not arrays:
        return []
    measured: dict[str, tuple[float, float]] = {}
    verdicts = []
    for index, (region, given) in enumerate(arrays.items()):
        stock = region.stock()
        kernels_time, stock_time = _race(
            lambda r=region, g=given: r.run(g), lambda s=stock, g=given: s.run(g), seconds  # type: ignore[misc]
        )  # fmt: skip
        verdicts.append(RegionTiming(f"region {index}", kernels_time, stock_time))
        measured[region_digest(region.segment)] = (kernels_time, stock_time)
    times = region_times(session.threads)
    times.add(measured)
    mixed = Session(model, threads)
    if mixed.regions:
        whole = Session(model, threads, kernels=False)
        kernels_time, stock_time = _race(lambda: mixed.run(None, feeds), lambda: whole.run(None, feeds), seconds)
        verdicts.append(RegionTiming("whole model", kernels_time, stock_time))
        if kernels_time > stock_time:
            times.add({region_digest(region.segment): (kernels_time, stock_time) for region in mixed.regions})
    return verdicts


def _race(kernels: Callable[[], object], stock: Callable[[], object], seconds: float) -> tuple[float, float]:
    first, second = interleaved({"kernels": kernels, "onnxruntime": stock}, seconds=seconds)
    return first.median, second.median
