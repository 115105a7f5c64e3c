"""The speed of a compressed model relative to the model it is made from: measured until clear, else predicted.

Either is kept for models of the same structure on this machine, so that the same input, options and seed give the same
bytes on it, whatever else it does at the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..ir import Model
from ..kernels import select_level
from ..kernels.core.object_cache import generation
from ..machine.measurements import Measurements
from ..machine.sessions import packing
from ..measure import Timing, compare_latency, ort_session, own_clock, structure_digest

GAIN = 1.02
"""The ratio from which a model counts as faster: two standard errors of a ratio that is `CERTAIN`."""
CERTAIN = 0.01
"""The largest standard error of a ratio that is clear wherever it lies."""
SECONDS, ATTEMPTS = 0.6, 3
"""Seconds for which each model is timed, and the most attempts, each twice as long, until the ratios are clear: 4.2 s
at most. `python -m tests.bench.zoo_int8` prints the ratios of fresh runs beside the kept ones."""
_PREDICTED = ":predicted"
"""The end of the keys of predicted times, which stand where no measurement was clear."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of the model and of the candidate. is_predicted: by rates of this kind of CPU, as no time was clear."""

    before: float
    after: float
    is_predicted: bool = False

    @property
    def ratio(self) -> float:
        """How many times as fast the candidate is."""
        return self.before / self.after


def model_times() -> Measurements:
    """Kept seconds of compressed models and of those they are made from, by key; a table for each instruction set."""
    return Measurements("models", (select_level().name, generation()))


def pair_key(before: Model, after: Model, feed: Mapping[str, Any], target: str) -> str:
    """The key of the times of a pair of models: their structures and the target runtime."""
    return f"pair:{structure_digest(before, feed)}:{structure_digest(after, feed)}:{target}"


def kept_speeds(
    model: Model, candidates: Mapping[str, Callable[[], Model]], feed: Mapping[str, Any], target: str,
    timed: Callable[[Mapping[str, Any]], list[Timing]], is_clear: Callable[[Timing], bool], packs: bool = True,
) -> dict[str, Speed]:  # fmt: skip
    """The speed of each candidate, by key: kept, or `timed` by sessions and kept where the time is clear, else
    predicted and kept.

    timed: timings of all sessions but the first, that of `model`, in order. packs: the sessions pack weights, whose
    copies are as large as the models.
    """
    table = model_times()
    known = _known(table.load(), candidates)
    made = {key: make() for key, make in candidates.items() if key not in known}
    if made:
        opened = timing_session if packs else partial(timing_session, packs=False)
        sessions = {"float": opened(model, target)}
        sessions.update((key, opened(one, target)) for key, one in made.items())
        found: dict[str, tuple[float, float]] = {}
        for key, timing in zip(made, timed(sessions)):
            if is_clear(timing):
                found[key] = (timing.median, timing.median * timing.ratio)
            else:
                found[key + _PREDICTED] = (predicted(made[key], feed, target), predicted(model, feed, target))
        table.add(found)
        known.update(_known(found, made))
    return known


def stable_timings(
    sessions: Mapping[str, Any], feed: Mapping[str, Any], seconds: float = SECONDS, attempts: int = ATTEMPTS
) -> list[Timing]:
    """Timings of all sessions relative to the first, repeated until all are clear."""
    for attempt in range(attempts):
        timings = compare_latency(sessions, feed, seconds=seconds * 2**attempt, clock=own_clock())[1:]
        if all(is_clear(timing) for timing in timings):
            break
    return timings


def is_clear(timing: Timing) -> bool:
    """Whether the ratio is certain, or far from `GAIN`."""
    return timing.error <= CERTAIN or abs(timing.ratio - GAIN) > 4 * timing.error * timing.ratio


def predicted(model: Model, feed: Mapping[str, Any], target: str) -> float:
    """Seconds of a run in the target runtime, by rates of this kind of CPU."""
    from ..runtime.place.predicted import predicted_seconds

    return predicted_seconds(model, {n: np.shape(v) for n, v in feed.items()}, on_kernels=target == "graphopt")


def timing_session(model: Model, target: str, packs: bool = True) -> Any:
    """A session on one thread in the target runtime. packs: in onnxruntime, it packs weights."""
    if target == "graphopt":
        from ..runtime import session_of

        return session_of(model, threads=1)
    return ort_session(model, options=packing(packs))


def _known(pairs: Mapping[str, tuple[float, float]], keys: Mapping[str, object]) -> dict[str, Speed]:
    """The speeds among pairs of seconds of candidate and model; measured ones before predicted ones."""
    measured = {key: Speed(pairs[key][1], pairs[key][0]) for key in keys if key in pairs}
    ends = {key: pairs[key + _PREDICTED] for key in keys if key not in measured and key + _PREDICTED in pairs}
    return {**measured, **{key: Speed(pair[1], pair[0], is_predicted=True) for key, pair in ends.items()}}
