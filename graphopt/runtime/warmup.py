"""Warm-up: compile a model's kernels into the cache and measure which regions are worth it on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..ir import Model
from ..kernels import on_compile
from ..machine.measurements import Measurements
from ..measure import interleaved, own_clock
from .place.measured import region_digest, region_times
from .session import Session

if TYPE_CHECKING:
    from ..onnx_io.source import ModelSource


ATTEMPTS = 3
"""The most times that a verdict is sought; derived: seven times the seconds that the caller grants a region."""
CERTAIN, ERRORS = 0.01, 4
"""Clear is a ratio whose standard error is at most 1 %, or that lies this many errors from 1; as the speeds of
quantized models are judged, `python -m tests.bench.zoo_int8`."""


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

    Regions are measured one by one, in either runtime for about `seconds` or more until the verdict is clear, and so
    are those of the partition that results where some go back to onnxruntime, until nothing in it is new. Then the
    model is measured as a whole: it goes back where its regions do not pay for the borders between them. Where the
    cache cannot be written, nothing is remembered and sessions go by prediction. `progress` is told the kernels that
    are compiled.
    """
    remove = on_compile(progress) if progress is not None else None
    timings: list[RegionTiming] = []
    measured: dict[str, tuple[float, float]] = {}
    try:
        session = Session(model, threads, kernels=True)
        times = region_times(session.threads)
        while session.regions:
            new = _measure(session, feeds, seconds, measured)
            if not new:
                break
            timings += [RegionTiming(f"region {len(timings) + i}", *pair) for i, pair in enumerate(new.values())]
            measured |= new
            times.add(new)
            session = _unjudged(model, threads, times)
        if session.regions:
            whole = Session(model, threads, kernels=False)
            pair = _race(partial(session.run, None, feeds), partial(whole.run, None, feeds), seconds, session.threads)
            timings.append(RegionTiming("whole model", *pair))
            times.add({session.partition: pair})
    finally:
        if remove is not None:
            remove()
    return timings


def _unjudged(model: ModelSource | Model, threads: int | None, times: Measurements) -> Session:
    """The session with the regions as they are measured, whatever an earlier call found of them as a whole."""
    session = Session(model, threads)
    kernels, ort = times.load().get(session.partition, (0.0, 0.0))
    if kernels <= ort:
        return session
    times.add({session.partition: (0.0, 0.0)})
    return Session(model, threads)


def _measure(
    session: Session, feeds: Mapping[str, Any], seconds: float, known: Mapping[str, object]
) -> dict[str, tuple[float, float]]:
    """Times of the session's regions by their digests, but of `known` ones."""
    measured: dict[str, tuple[float, float]] = {}
    for region, given in session.region_inputs(feeds).items():
        digest = region_digest(region.segment)
        if digest not in known and digest not in measured:
            kernels, ort = partial(region.run, given), partial(region.in_onnxruntime().run, given)
            measured[digest] = _race(kernels, ort, seconds, session.threads)
    return measured


def _race(
    kernels: Callable[[], object], ort: Callable[[], object], seconds: float, threads: int
) -> tuple[float, float]:  # fmt: skip
    """Seconds of both, measured again, each time for twice as long, while the ratio's interval holds 1."""
    clock = own_clock() if threads == 1 else time.perf_counter  # others compute, too
    for attempt in range(ATTEMPTS):
        candidates = {"onnxruntime": ort, "kernels": kernels}
        _, timing = interleaved(candidates, seconds=seconds * 2**attempt, clock=clock)
        if timing.error <= CERTAIN or abs(timing.ratio - 1) > ERRORS * timing.error * timing.ratio:
            break
    return timing.median, timing.median * timing.ratio
