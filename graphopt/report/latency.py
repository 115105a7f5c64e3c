"""Latency before and after, in both runtimes, on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import one_line
from ..ir import Model
from ..measure import compare_latency, ort_session, own_clock
from ..provenance import Trail

if TYPE_CHECKING:
    from ..runtime import Session


@dataclass(frozen=True, slots=True)
class RuntimeLatency:
    """Seconds of both models in one runtime, medians of interleaved runs; `ratio` is the median of before / after.

    error: the relative standard error of `ratio`.
    """

    runtime: str
    before: float
    after: float
    ratio: float
    error: float = 0.0

    @property
    def interval(self) -> float:
        """Half of the ratio's 95 % interval, as a share of the ratio: two standard errors."""
        return 2 * self.error

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 1."""
        return abs(self.ratio - 1) > self.interval * self.ratio


@dataclass(frozen=True, slots=True)
class Latency:
    """Measured latencies on one thread, and the input shapes they hold for; `note` says why there are none."""

    runs: tuple[RuntimeLatency, ...]
    shapes: Mapping[str, tuple[int, ...]]
    note: str = ""

    def in_runtime_of(self, target: str) -> RuntimeLatency | None:
        """The latency in a target's runtime: the Session for "graphopt", else onnxruntime."""
        wanted = "Session" if target == "graphopt" else "onnxruntime"
        return next((run for run in self.runs if run.runtime == wanted), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {"runs": [asdict(run) for run in self.runs], "shapes": shapes, "threads": 1, "note": self.note}


def measure_latency(trail: Trail, seconds: float) -> Latency:
    """Time the original in onnxruntime beside the result in onnxruntime and, where kernels cover it, in the Session.

    One thread each, by the clock of that thread.
    """
    from ..equivalence import synthesise

    try:
        feeds = synthesise(trail.original, 1)[0]
        base = ort_session(trail.original)
        candidates: dict[str, Any] = {"original": base, "onnxruntime": ort_session(trail.result)}
        session = _session(trail.result)
        if session is not None:
            candidates["Session"] = session
        first, *others = compare_latency(candidates, feeds, seconds=seconds, clock=own_clock())
    except Exception as error:  # a model that cannot run still gets a report
        return Latency((), {}, f"not measured: {one_line(error)}")
    runs = tuple(RuntimeLatency(other.label, first.median, other.median, other.ratio, other.error) for other in others)
    return Latency(runs, {name: array.shape for name, array in feeds.items()})


def _session(model: Model) -> Session | None:
    """graphopt's Session if any region of the model runs on its kernels."""
    from ..runtime import session_of

    session = session_of(model, 1)
    return session if session.regions else None
