"""Warm-up: compile a model's kernels into the cache and measure which partition is fastest on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..ir import Model
from ..kernels import on_compile
from ..machine.measurements import Measurements, Pair
from ..measure import interleaved, own_clock
from .place.lowered_model import Kernels
from .place.measured import (
    AS_PREDICTED,
    PARTITIONS,
    Choice,
    is_faster,
    partition_key,
    region_digest,
    region_times,
)
from .session import Session

if TYPE_CHECKING:
    from ..onnx_io.source import ModelSource


ATTEMPTS = 3
"""The most measurements of a race, each twice as long: in all seven times the seconds granted to a run (derived)."""
CERTAIN, ERRORS = 0.01, 4
"""A ratio is clear if its standard error is at most 1 %, or if it lies this many errors from 1; as the speeds of
quantized models are judged, `python -m tests.bench.zoo_int8`."""


DOUBT = 2
"""Standard errors added to another partition's time: it replaces the predicted partition only if it is faster beyond
both intervals. Two are 95 % of a normal distribution."""

OPENED = 5
"""Races that another partition must win, all of them, each in newly opened sessions: a session keeps the placement of
its memory for life, and other load may slow one of two sessions for a whole race. On a machine under much other load,
ratios of the same two partitions scattered by 15 %, each with an interval of 2 to 11 %; a partition that is 5 % slower
wins a race in three there, and five of five once in 300 times."""

GRANTED = 200
"""The time for all races and their sessions, in units of `seconds`: 100 s by default, 20 s where `optimize` warms up.
No race begins after that. A bound, not tuned: fourteen of the longest races."""

_ALTERNATIVES: dict[Choice, Kernels] = {"whole": False, "all": True, "measured": "measured"}
"""Partitions that may replace the predicted one, with the `kernels` that a session takes for each."""


@dataclass(frozen=True, slots=True)
class Race:
    """Median seconds of a candidate and of the run beside it; the standard error of their ratio, as a share."""

    candidate: float
    beside: float
    error: float = 0.0

    @property
    def doubted(self) -> Pair:
        """Both times, the candidate's lengthened by DOUBT errors."""
        return self.candidate * (1 + DOUBT * self.error), self.beside


@dataclass(frozen=True, slots=True)
class RegionTiming:
    """One region: seconds on kernels and in onnxruntime, medians of interleaved runs."""

    part: str
    kernels: float
    onnxruntime: float

    @property
    def runs_on(self) -> str:
        """The faster of the two: "kernels" or "onnxruntime"."""
        return "kernels" if self.kernels <= self.onnxruntime else "onnxruntime"


@dataclass(frozen=True, slots=True)
class PartitionTiming:
    """The model in a partition other than the predicted: seconds of both in the other's worst race, None where the
    time for races was spent; whether the other won every race beyond doubt."""

    part: str
    seconds: float | None = None
    predicted: float | None = None
    won: bool = False

    @property
    def runs_on(self) -> str:
        """The better of the two partitions."""
        return self.part if self.won else PARTITIONS["predicted"]


def warmup(
    model: ModelSource | Model,
    feeds: Mapping[str, Any],
    *,
    threads: int | None = None,
    seconds: float = 0.5,
    progress: Callable[[str], None] | None = None,
) -> list[RegionTiming | PartitionTiming]:
    """Compile and measure; later sessions run the predicted partition, or another that is clearly faster here.

    The others: the whole model in onnxruntime, all regions on kernels, and only the faster regions on kernels. For the
    last, regions are measured one by one in both runtimes, for about `seconds` or more until the ratio is clear; moving
    slower regions to onnxruntime may form new regions, measured alike, until none is new. Each other partition is raced
    against the predicted one up to OPENED times, in newly opened sessions, and chosen only if it is faster beyond the
    errors of every race; of several, the fastest. After GRANTED times `seconds` of races no further race begins, and
    unmeasured partitions are not chosen; compilation is not counted. Where the cache cannot be written, nothing is
    saved. `progress` is called with each kernel that is compiled.
    """
    remove = on_compile(progress) if progress is not None else None
    timings: list[RegionTiming | PartitionTiming] = []
    try:
        session = Session(model, threads, kernels=True)
        if not session.regions:
            return timings
        greedy, times = session.greedy, region_times(session.threads)
        races = _Races(partial(Session, model, threads), feeds, seconds, session.threads)
        times.add({partition_key(greedy, choice): AS_PREDICTED for choice in _ALTERNATIVES})
        seen = [_digests(Session(model, threads, kernels="predicted"))]
        for choice, kernels in _ALTERNATIVES.items():
            if choice == "measured":
                timings += _measured(session, races, times)
            digests = _digests(Session(model, threads, kernels=kernels))
            if digests in seen:
                continue
            seen.append(digests)
            race = races.partition(kernels)
            if race is None:
                timings.append(PartitionTiming(PARTITIONS[choice]))
                continue
            times.add({partition_key(greedy, choice): race.doubted})
            timings.append(PartitionTiming(PARTITIONS[choice], race.candidate, race.beside, is_faster(race.doubted)))
    finally:
        if remove is not None:
            remove()
    return timings


def _digests(session: Session) -> tuple[str, ...]:
    """The digests of a session's regions, which identify its partition of the model."""
    return tuple(region_digest(region.segment) for region in session.regions)


@dataclass(slots=True)
class _Races:
    """Races of two runs on the same feeds, until their time is spent; `opened` makes a session for `kernels`."""

    opened: Callable[..., Session]
    feeds: Mapping[str, Any]
    seconds: float
    threads: int
    spent: float = 0.0

    def run(self, candidate: Callable[[], object], beside: Callable[[], object]) -> Race | None:
        """One race; None when the time is spent. The first, compiling run of each is not counted."""
        if self.spent >= GRANTED * self.seconds:
            return None
        candidate(), beside()
        begun = time.perf_counter()
        race = _race(candidate, beside, self.seconds, self.threads)
        self.spent += time.perf_counter() - begun
        return race

    def partition(self, kernels: Kernels) -> Race | None:
        """The worst race of a partition against the predicted one, of OPENED races or up to the first not won.

        Which of the two is opened first, and runs first in turn, alternates.
        """
        found: list[Race] = []
        while len(found) < OPENED and (not found or is_faster(found[-1].doubted)):
            ahead = len(found) % 2 == 0
            begun = time.perf_counter()
            pair = [self.opened(kernels=one) for one in (("predicted", kernels) if ahead else (kernels, "predicted"))]
            self.spent += time.perf_counter() - begun
            first, second = (partial(session.run, None, self.feeds) for session in pair)
            race = self.run(second, first)
            if race is None:
                return None
            found.append(race if ahead else Race(race.beside, race.candidate, race.error))
        return max(found, key=lambda race: race.doubted[0] / race.doubted[1])


def _measured(session: Session, races: _Races, times: Measurements) -> Iterator[RegionTiming]:
    """Times of all regions, and of new ones that form as slower ones move to onnxruntime, until none is new."""
    known: set[str] = set()
    while True:
        found: dict[str, Race] = {}
        for region, given in session.region_inputs(races.feeds).items():
            digest = region_digest(region.segment)
            if digest not in known:
                known.add(digest)
                race = races.run(partial(region.run, given), partial(region.in_onnxruntime().run, given))
                if race is not None:
                    found[digest] = race
                    yield RegionTiming(f"region {len(known) - 1}", race.candidate, race.beside)
        if not found:
            return
        times.add({digest: (race.candidate, race.beside) for digest, race in found.items()})
        session = races.opened(kernels="measured")


def _race(candidate: Callable[[], object], beside: Callable[[], object], seconds: float, threads: int) -> Race:
    """Seconds of both, measured again for twice as long, up to ATTEMPTS times, until their ratio is clear."""
    clock = own_clock() if threads == 1 else time.perf_counter  # with more threads, others compute, too
    for attempt in range(ATTEMPTS):
        runs = {"beside": beside, "candidate": candidate}
        _, timing = interleaved(runs, seconds=seconds * 2**attempt, clock=clock)
        if timing.error <= CERTAIN or abs(timing.ratio - 1) > ERRORS * timing.error * timing.ratio:
            break
    return Race(timing.median, timing.median * timing.ratio, timing.error)
