"""Where the time of a model goes, node by node, as onnxruntime's profiler tells."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..ir import Model, Node
from ..machine.sessions import session_options
from .latency import open_model


def node_seconds(model: Model, feeds: Mapping[str, Any], *, runs: int = 10, threads: int = 1) -> dict[Node, float]:
    """The median time of each node of the root graph, without fusion, so that nodes stay what they are."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        settings = session_options(threads=threads, optimize=False)
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder, "profile"))
        session = open_model(model, settings)
        for _ in range(runs):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text())
    order = model.graph.snapshot()
    times: dict[Node, list[float]] = defaultdict(list)
    for event in events:
        told = event.get("args", {})
        if not str(event.get("name", "")).endswith("_kernel_time") or "node_index" not in told:
            continue
        index = int(told["node_index"])
        if index < len(order) and order[index].op_type == told.get("op_name"):
            times[order[index]].append(event["dur"] * 1e-6)
    return {node: statistics.median(values) for node, values in times.items()}
