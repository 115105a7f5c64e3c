"""Where onnxruntime's time goes: the seconds of each node it runs, fusions and layout changes included."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..machine.sessions import session_options
from .latency import Feeds, open_model


def profile_nodes(models: Sequence[Any], feeds: Feeds, *, runs: int = 12, threads: int = 1) -> list[dict[str, float]]:
    """For each model (bytes, or of the IR), seconds by the name of the node that ran, which onnxruntime derives from
    the names in the model.

    The models run in turn, so that what else the machine does hits all alike; the lower quartile of a node's times
    counts, which interruptions do not reach. The first third of the runs warms up and is not counted.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        sessions = []
        for index, model in enumerate(models):
            settings = session_options(threads=threads)
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder, f"profile{index}"))
            sessions.append(open_model(model, settings))
        for _ in range(runs):
            for session in sessions:
                session.run(None, dict(feeds))
        return [_by_node(Path(session.end_profiling())) for session in sessions]


def _by_node(profile: Path) -> dict[str, float]:
    events: list[dict[str, Any]] = json.loads(profile.read_text("utf-8"))
    times: dict[str, list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            times.setdefault(name.removesuffix("_kernel_time"), []).append(float(event["dur"]) * 1e-6)
    return {name: _low(found[len(found) // 3 :]) for name, found in times.items()}


def _low(times: list[float]) -> float:
    return statistics.quantiles(times, n=4, method="inclusive")[0] if len(times) > 1 else times[0]
