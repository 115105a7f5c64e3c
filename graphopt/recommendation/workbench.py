"""Measures and judges candidates against the original: split samples, quality, time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import onnx_io
from ..calibration import open_calibration
from ..compress.stages import session_maker
from ..ir import Model
from ..measure import Quality, Timing, compare_latency, own_clock
from ..options import Runtime
from ..pipeline.repro import runnable_feeds

if TYPE_CHECKING:
    from ..calibration import Calibration, CalibrationData, Preprocess
    from ..measure import Metric
    from ..onnx_io.source import ModelSource

TIMED = 4
"""Calibration samples per round of timing."""
LEAST, MANY = 4, 32
"""Sample counts from which half of the samples, and from which a quarter, are held out for judging: two to seven
samples tell little of a tail. Choices: four of sixteen overrated silero's int8 by 3.7 dB."""
ROUNDS = 3
"""The most repeats of an unclear ratio's measurement, each twice as long."""


@dataclass(frozen=True, slots=True)
class Part:
    """A subset of the samples: those whose index modulo `every` is in `places`."""

    samples: Calibration
    every: int
    places: frozenset[int]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (feed for at, feed in enumerate(self.samples) if at % self.every in self.places)


@dataclass(slots=True)
class Workbench:
    """The original with its data, from which candidates are built, judged and timed.

    taught: samples for building candidates; all samples where a metric judges. is_judged: whether other samples judge.
    quality: None without data. notes: warnings for the reader.
    """

    model: ModelSource
    given: CalibrationData
    preprocess: str | Preprocess | None
    metric: Metric | None
    target: Runtime
    seed: int
    original: Model = field(init=False)
    calibration: Calibration | None = field(init=False, default=None)
    taught: Iterable[dict[str, Any]] | None = field(init=False, default=None)
    is_judged: bool = field(init=False, default=True)
    quality: Quality | None = field(init=False, default=None)
    notes: list[str] = field(init=False, default_factory=list)
    _session: Any = field(init=False, default=None)
    _run: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.original = onnx_io.load(self.model)
        if self.given is not None:
            self.calibration = open_calibration(self.given, self.original, preprocess=self.preprocess)
            if self.calibration.note:
                self.notes.append(self.calibration.note)
            self.taught, judging = self.parted(self.calibration)
            self.quality = self.quality_on(judging)

    def quality_on(self, samples: Iterable[dict[str, Any]]) -> Quality:
        """A judge of candidates on `samples`, and by the metric."""
        return Quality(self.original, session_maker(self.target, 1), samples, self.metric)

    def parted(self, given: Calibration) -> tuple[Iterable[dict[str, Any]], Iterable[dict[str, Any]]]:
        """The samples that build candidates, and those that judge them; all samples for both where a metric judges."""
        if self.metric is not None:
            return given, given
        count = len(given.first(MANY))
        self.is_judged = count >= LEAST
        if not self.is_judged:
            self.notes.append(f"fewer than {LEAST} samples: none was held out to judge by")
            return given, given
        every = 4 if count == MANY else 2
        self.notes.append(f"one of {every} samples judged the modes and was not used to make them")
        last = frozenset((every - 1,))
        return Part(given, every, frozenset(range(every)) - last), Part(given, every, last)

    def feeds(self, samples: int = TIMED) -> list[dict[str, Any]]:
        """Feeds for timing: values may decide which branch runs, and for how long."""
        if self.calibration is not None:
            return self.calibration.first(samples)
        return runnable_feeds(self.original, 1, self.seed)

    def _open(self) -> Any:
        """The session of the original."""
        if self._session is None:
            self._session = session_maker(self.target, 1)(self.original)
        return self._session

    @property
    def run_seconds(self) -> float:
        """Seconds of one run of the original, the faster of two; 0 where no inputs are known."""
        if self._run is None:
            feeds, session = self.feeds(1), self._open()
            times = []
            for _ in range(2 if feeds else 0):
                start = time.perf_counter()
                session.run(None, feeds[0])
                times.append(time.perf_counter() - start)
            self._run = min(times, default=0.0)
        return self._run

    def timings(
        self, models: Mapping[str, Model], seconds: float, is_clear: Callable[[list[Timing]], bool],
        rounds: int = ROUNDS, samples: int = TIMED,
    ) -> Iterator[list[Timing]]:  # fmt: skip
        """Times of models beside the original, interleaved, on one thread by its CPU time; repeated, twice as long,
        until clear, at most `rounds` times. samples: number of feeds. Yields nothing where no inputs are known.
        ModelError, InputError."""
        feeds = self.feeds(samples)
        if not feeds:
            return
        open_session = session_maker(self.target, 1)
        self._open()
        sessions = {"original": self._session}
        sessions |= {name: open_session(model) for name, model in models.items()}
        for turn in range(rounds):
            found = compare_latency(sessions, feeds, seconds=seconds * 2**turn, clock=own_clock())
            yield found
            if is_clear(found):
                break
