"""Where onnxruntime's time goes: the median seconds of each node it runs, fusions and layout changes included."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from .latency import Feeds, session_options


def profile_nodes(model: bytes, feeds: Feeds, *, runs: int = 12, threads: int = 1) -> dict[str, float]:
    """Seconds by the name of the node that ran, which onnxruntime derives from the names in the model.

    The first third of the runs warms up and is not counted.
    """
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        settings = session_options(threads=threads)
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder, "profile"))
        session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, dict(feeds))
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    times: dict[str, list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            times.setdefault(name.removesuffix("_kernel_time"), []).append(float(event["dur"]) * 1e-6)
    return {name: statistics.median(found[len(found) // 3 :]) for name, found in times.items()}
