"""Latency on this machine: interleaved runs, medians, and medians of paired ratios."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, one_line
from ..ir import Array, Model
from ..machine.sessions import EXTERNAL_FOLDER, open_session, session_options

if TYPE_CHECKING:
    import onnxruntime

    from ..onnx_io.pieces import PiecewiseSession


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one candidate. `ratio` is the median of (first candidate's time / this one's) over paired runs.

    error: the standard error of `ratio`, as a share, which grows with other load on the machine. low: the lower
    quartile of seconds, less affected by such load. low_error: the standard error, as a share, of the ratio of low to
    the first candidate's low.
    """

    label: str
    median: float
    best: float
    ratio: float
    runs: int
    error: float = 0.0
    low: float = 0.0
    low_error: float = 0.0


_BLOCKS, _LEAST_RUNS = 8, 4
"""Blocks of runs whose quartiles estimate the scatter of a quartile, and the least runs of a quartile. Choices."""

_WAITED = 8
"""The factor by which wall time may exceed the seconds allowed on another clock: enough for a core shared by eight."""


def interleaved(
    candidates: Mapping[str, Callable[[], object]], *, seconds: float = 2.0, min_runs: int = 5, max_runs: int = 1000,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:  # fmt: skip
    """Time callables in turn, A B C C B A A B C …, after two untimed runs of each, so that drift of the machine and the
    state of caches affect all alike.

    Short calls are repeated within a turn until the turn takes about a millisecond. `clock` gives seconds, those of the
    candidates and the `seconds` allowed for each: with `own_clock`, a busy machine makes as many runs as a quiet one,
    for at most `_WAITED` times as long.
    """
    repeats = {label: _repeats(run) for label, run in candidates.items()}
    times: dict[str, list[float]] = {label: [] for label in candidates}
    turn = [*candidates.items()]
    allowed = seconds * len(candidates)
    spent, latest = 0.0, time.perf_counter() + allowed * _WAITED
    while len(next(iter(times.values()))) < min_runs or (
        spent < allowed and time.perf_counter() < latest and len(next(iter(times.values()))) < max_runs
    ):
        for label, run in turn:
            count = repeats[label]
            start = clock()
            for _ in range(count):
                run()
            took = clock() - start
            spent += took
            times[label].append(took / count)
        turn.reverse()
    base = next(iter(times.values()))
    return [_timing(label, t, base) for label, t in times.items()]


def _timing(label: str, times: Sequence[float], base: Sequence[float]) -> Timing:
    ratios = [b / x for b, x in zip(base, times)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    error = 0.93 * (high - low) / middle / len(ratios) ** 0.5  # of a median, by the quartiles of a normal distribution
    settled = _low_error(times, base, error)
    return Timing(label, statistics.median(times), min(times), middle, len(times), error, _quartile(times), settled)


def _low_error(times: Sequence[float], base: Sequence[float], usual: float) -> float:
    """The error of the low ratio by the scatter between blocks of consecutive runs, drift included; `usual` for too few
    runs."""
    length = len(times) // _BLOCKS
    if length < _LEAST_RUNS:
        return usual
    starts = range(0, length * _BLOCKS, length)
    ratios = [_quartile(times[k : k + length]) / _quartile(base[k : k + length]) for k in starts]
    return statistics.stdev(ratios) / statistics.fmean(ratios) / math.sqrt(_BLOCKS)


def _quartile(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=4, method="inclusive")[0]


def own_clock() -> Callable[[], float]:
    """A clock of this thread's CPU seconds, which other load on the machine hardly affects, or of wall time where the
    CPU clock is too coarse. For work in the calling thread, such as sessions of one thread."""
    return time.thread_time if time.get_clock_info("thread_time").resolution <= 1e-6 else time.perf_counter


def _repeats(run: Callable[[], object]) -> int:
    run()
    start = time.perf_counter()
    run()
    return max(1, min(1000, int(1e-3 / max(time.perf_counter() - start, 1e-7))))


def ort_session(
    model: str | os.PathLike[str] | bytes | Model, *, threads: int = 1, optimize: bool = True,
    options: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:  # fmt: skip
    """An `onnxruntime.InferenceSession` on the CPU. options: further entries of its configuration."""
    return open_ort_session(model, partial(session_options, threads=threads, optimize=optimize, entries=options))


def open_ort_session(
    model: str | os.PathLike[str] | bytes | Model, settings: Callable[[], onnxruntime.SessionOptions]
) -> onnxruntime.InferenceSession:
    """`ort_session` with the settings that `settings` makes; external weights of an IR model are read from its folder,
    weights of a large model from mapped files."""
    if isinstance(model, Model):
        from ..onnx_io import is_large
        from ..onnx_io.lend import open_lent

        if is_large(model):
            return _open_large(model, settings)
        made = settings()
        if model.folder:
            made.add_session_config_entry(EXTERNAL_FOLDER, model.folder)
        return open_lent(model, made)
    return open_session(model if isinstance(model, bytes) else os.fspath(model), settings())


def _open_large(
    model: Model, settings: Callable[[], onnxruntime.SessionOptions]
) -> onnxruntime.InferenceSession | PiecewiseSession:
    """A session that copies no large weights."""
    from ..onnx_io.lend import lent_emission, on_disk
    from ..onnx_io.pieces import open_large
    from ..onnx_io.weights import weight_bytes

    emitted = lent_emission(model)
    return open_large(*on_disk(emitted.proto, emitted.lent, model.folder), settings, weight_bytes(model))


def compare_latency(
    sessions: Mapping[str, Any], feeds: Mapping[str, Array] | Sequence[Mapping[str, Array]], *, seconds: float = 2.0,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:  # fmt: skip
    """Latency of sessions (anything with `run(names, feeds)`) on the same feeds, or on several in turn, interleaved.

    InputError with the label of a session that does not run on them.
    """
    samples = [feeds] if isinstance(feeds, Mapping) else list(feeds)
    fed = {label: [half_fed(session, sample) for sample in samples] for label, session in sessions.items()}
    runs = {label: partial(_run, label, session, fed[label]) for label, session in sessions.items()}
    return interleaved(runs, seconds=seconds, clock=clock)


def half_fed(session: Any, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
    """The feeds, with float32 arrays converted to float16 for inputs that the session takes in float16."""
    halves = {i.name for i in session.get_inputs() if i.type == "tensor(float16)"}
    if not halves:
        return feeds
    return {n: v.astype(np.float16) if n in halves and np.asarray(v).dtype == "f4" else v for n, v in feeds.items()}


def taking_floats(session: Any) -> Any:
    """The session; if it has float16 inputs, its `run` is replaced by one that accepts float32 for these."""
    if any(i.type == "tensor(float16)" for i in session.get_inputs()):
        run = session.run
        session.run = lambda names, feeds, *more: run(names, half_fed(session, feeds), *more)
    return session


def results_of(session: Any, samples: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[Any]]:
    """All results of a session on each sample; a session in pieces opens each of them once for all samples."""
    run_each = getattr(session, "run_each", None)
    if run_each is None:
        return (session.run(None, feeds) for feeds in samples)
    results: list[list[Any]] = run_each(None, [half_fed(session, feeds) for feeds in samples])
    return results


def _run(label: str, session: Any, samples: Sequence[Mapping[str, Array]]) -> None:
    try:
        for feeds in samples:
            session.run(None, feeds)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"{label}: {one_line(error)}") from error


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers."""
    return statistics.geometric_mean(values)
