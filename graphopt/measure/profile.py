"""Seconds of each node in onnxruntime, read from the profile it writes."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..ir import Array, Model, Node
from ..machine.sessions import session_options
from .latency import open_ort_session

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class KernelRun:
    """One run of one node: its name, operator and number in the graph that onnxruntime runs, and its seconds."""

    name: str
    op: str
    index: int
    seconds: float


def node_seconds(model: Model, feeds: Mapping[str, Array], *, runs: int = 10, threads: int = 1) -> dict[Node, float]:
    """The median seconds of each node of the root graph, without fusion, so that nodes stay as they are."""
    order = model.graph.snapshot()
    (kernels,) = _profiles([model], feeds, runs, threads, optimize=False)
    matching = [run for run in kernels if run.index < len(order) and order[run.index].op_type == run.op]
    return {node: statistics.median(times) for node, times in _grouped(matching, lambda run: order[run.index]).items()}


def profile_nodes(
    models: Sequence[bytes | Model], feeds: Mapping[str, Array], *, runs: int = 12, threads: int = 1
) -> list[dict[str, float]]:
    """For each model, seconds by the name of the node that ran, fusions and layout changes included; onnxruntime
    derives the names from those in the model.

    The models run in turn, so that other work on the machine hits all alike; the lower quartile of a node's times
    counts, which interruptions do not reach. The first third of the runs warms up and is not counted.
    """
    profiles = _profiles(models, feeds, runs, threads, optimize=True)
    return [
        {name: _lower_quartile(times[len(times) // 3 :]) for name, times in _grouped(p, lambda run: run.name).items()}
        for p in profiles
    ]


def _profiles(
    models: Sequence[bytes | Model], feeds: Mapping[str, Array], runs: int, threads: int, *, optimize: bool
) -> list[list[KernelRun]]:
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        sessions = []
        for number, model in enumerate(models):
            settings = session_options(threads=threads, optimize=optimize)
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder, f"profile{number}"))
            sessions.append(open_ort_session(model, settings))
        for _ in range(runs):
            for session in sessions:
                session.run(None, dict(feeds))
        return [_kernel_runs(Path(session.end_profiling())) for session in sessions]


def _kernel_runs(profile: Path) -> list[KernelRun]:
    """The node events of a profile in their order; onnxruntime writes the events of its own work beside them."""
    events: list[dict[str, Any]] = json.loads(profile.read_text("utf-8"))
    return [
        KernelRun(
            event["name"].removesuffix("_kernel_time"), event["args"]["op_name"], int(event["args"]["node_index"]),
            float(event["dur"]) * 1e-6,
        )
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]  # fmt: skip


def _grouped(runs: Sequence[KernelRun], key: Callable[[KernelRun], K]) -> dict[K, list[float]]:
    groups: dict[K, list[float]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run.seconds)
    return groups


def _lower_quartile(times: list[float]) -> float:
    return statistics.quantiles(times, n=4, method="inclusive")[0] if len(times) > 1 else times[0]
