"""Latency before and after, in both runtimes, on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...ir import Model, Node
from ...measure import compare_latency, kernel_times, ort_session
from ...provenance import Trail
from .cost import layer_times

if TYPE_CHECKING:
    from ...runtime import Session


_FEWEST, _MOST = 6, 30
"""Runs of a profile: a third warms up, and four that count still have a quartile; more than thirty change nothing."""


@dataclass(frozen=True, slots=True)
class RuntimeLatency:
    """Seconds of both models in one runtime, medians of interleaved runs; `ratio` is the median of before / after."""

    runtime: str
    before: float
    after: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Measured latencies on one thread, and the input shapes they hold for; `note` says why there are none."""

    runs: tuple[RuntimeLatency, ...]
    shapes: Mapping[str, tuple[int, ...]]
    note: str = ""


def measure_latency(trail: Trail, seconds: float) -> Latency:
    """Time the original in onnxruntime beside the result in onnxruntime and, where kernels cover it, in the Session."""
    from ...equivalence import synthesise

    try:
        feeds = synthesise(trail.original, 1)[0]
        base = ort_session(trail.original)
        candidates: dict[str, Any] = {"original": base, "onnxruntime": ort_session(trail.result)}
        session = _session(trail.result)
        if session is not None:
            candidates["Session"] = session
        first, *others = compare_latency(candidates, feeds, seconds=seconds)
    except Exception as error:  # a model that cannot run has a report all the same
        return Latency((), {}, f"not measured: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    runs = tuple(RuntimeLatency(other.label, first.median, other.median, other.ratio) for other in others)
    return Latency(runs, {name: array.shape for name, array in feeds.items()})


def measure_layers(trail: Trail, latency: Latency | None, seconds: float) -> dict[Node, float]:
    """Microseconds of the result's nodes in onnxruntime, within about `seconds`; empty where it was not measured."""
    run = next((run for run in latency.runs if run.runtime == "onnxruntime"), None) if latency is not None else None
    if run is None:
        return {}
    from ...equivalence import synthesise

    try:
        feeds = synthesise(trail.original, 1)[0]
        runs = max(_FEWEST, min(_MOST, int(seconds / max(run.after, 1e-6))))
        return layer_times(kernel_times([trail.result], feeds, runs=runs)[0])
    except Exception:  # as above
        return {}


def _session(model: Model) -> Session | None:
    """graphopt's Session if any region of the model runs on its kernels."""
    from ...runtime import session_of

    session = session_of(model, 1)
    return session if session.regions else None
