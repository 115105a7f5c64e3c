"""Warm-up: compile a model's kernels into the cache and measure which regions are worth it on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..ir import Model
from ..kernels import on_compile
from ..machine.measurements import Pair
from ..measure import interleaved, own_clock
from .place.lowered_model import Kernels
from .place.measured import Choice, partition_key, region_digest, region_times
from .session import Session

if TYPE_CHECKING:
    from ..onnx_io.source import ModelSource


ATTEMPTS = 3
"""The most times that a verdict is sought; derived: seven times the seconds that the caller grants a region."""
CERTAIN, ERRORS = 0.01, 4
"""Clear is a ratio whose standard error is at most 1 %, or that lies this many errors from 1; as the speeds of
quantized models are judged, `python -m tests.bench.zoo_int8`."""


DOUBT = 2
"""Standard errors by which another partition is taken to be slower, and the one predicted faster, than measured: the
second is left only for what is faster beyond both intervals, however busy the machine. Two are 95 % of a normal
distribution."""

_NAMES: dict[str, str] = {
    "predicted": "partition as predicted", "all": "partition with all regions",
    "measured": "partition of the faster regions",
}  # fmt: skip
"""Partitions by what decides them, as they are shown."""


@dataclass(frozen=True, slots=True)
class Race:
    """Seconds in both runtimes, medians, and the standard error of their ratio as a share of it."""

    kernels: float
    onnxruntime: float
    error: float = 0.0

    def moved(self, errors: float) -> Pair:
        """The times, those on kernels longer by so many errors."""
        return self.kernels * max(0.0, 1 + errors * self.error), self.onnxruntime


@dataclass(frozen=True, slots=True)
class RegionTiming:
    """One region, or the model in a partition: seconds on kernels and in onnxruntime (medians of interleaved runs)."""

    part: str
    kernels: float
    onnxruntime: float

    @property
    def runs_on(self) -> str:
        """The faster of the two: "kernels" or "onnxruntime"."""
        return "kernels" if self.kernels <= self.onnxruntime else "onnxruntime"


_AS_WHOLE = Race(1.0, 1.0)
"""The times of a partition without regions, which is the whole model in onnxruntime: equal, whatever they are."""


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
    are those that come up where slower ones go back to onnxruntime, until nothing is new. Then whole models are: in the
    partition that is predicted, in that of all regions and in that of the faster ones, each beside the whole model in
    onnxruntime. Later sessions run the fastest of these; one that is not faster than the one predicted beyond the
    errors of both is not taken. Where the cache cannot be written, nothing is remembered and sessions go by prediction.
    `progress` is told the kernels that are compiled.
    """
    remove = on_compile(progress) if progress is not None else None
    timings: list[RegionTiming] = []
    try:
        session = Session(model, threads, kernels=True)
        if not session.regions:
            return timings
        greedy, times = session.greedy, region_times(session.threads)
        measured: dict[str, Race] = {}
        while new := _measure(session, feeds, seconds, measured):
            timings += [_timing(f"region {len(timings) + i}", race) for i, race in enumerate(new.values())]
            measured |= new
            times.add({digest: race.moved(0) for digest, race in new.items()})
            session = Session(model, threads, kernels="measured")
        whole = Session(model, threads, kernels=False)
        raced: dict[tuple[str, ...], Race] = {}
        asked: dict[Choice, Kernels] = {"predicted": "predicted", "all": True, "measured": "measured"}
        for choice, kernels in asked.items():
            candidate = Session(model, threads, kernels=kernels)
            parts = tuple(region_digest(region.segment) for region in candidate.regions)
            if parts and parts not in raced:
                runs = partial(candidate.run, None, feeds), partial(whole.run, None, feeds)
                raced[parts] = _race(*runs, seconds, session.threads)
                timings.append(_timing(_NAMES[choice], raced[parts]))
            times.add({partition_key(greedy, choice): _verdict(choice, raced.get(parts, _AS_WHOLE))})
    finally:
        if remove is not None:
            remove()
    return timings


def _timing(part: str, race: Race) -> RegionTiming:
    return RegionTiming(part, race.kernels, race.onnxruntime)


def _verdict(choice: Choice, race: Race) -> Pair:
    """The times by which sessions choose, in favour of the partition predicted."""
    return race.moved(-DOUBT if choice == "predicted" else DOUBT)


def _measure(
    session: Session, feeds: Mapping[str, Any], seconds: float, known: Mapping[str, object]
) -> dict[str, Race]:
    """Times of the session's regions by their digests, but of `known` ones."""
    measured: dict[str, Race] = {}
    for region, given in session.region_inputs(feeds).items():
        digest = region_digest(region.segment)
        if digest not in known and digest not in measured:
            kernels, ort = partial(region.run, given), partial(region.in_onnxruntime().run, given)
            measured[digest] = _race(kernels, ort, seconds, session.threads)
    return measured


def _race(
    kernels: Callable[[], object], ort: Callable[[], object], seconds: float, threads: int
) -> Race:  # fmt: skip
    """Seconds of both, measured again, each time for twice as long, while the ratio's interval holds 1."""
    clock = own_clock() if threads == 1 else time.perf_counter  # others compute, too
    for attempt in range(ATTEMPTS):
        candidates = {"onnxruntime": ort, "kernels": kernels}
        _, timing = interleaved(candidates, seconds=seconds * 2**attempt, clock=clock)
        if timing.error <= CERTAIN or abs(timing.ratio - 1) > ERRORS * timing.error * timing.ratio:
            break
    return Race(timing.median, timing.median * timing.ratio, timing.error)
