"""`graphopt bench`: models side by side on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ModelError
from .measure import compare_latency, ort_session

if TYPE_CHECKING:
    from rich.table import Table


def bench_table(models: Sequence[Path], *, threads: int, seconds: float, inputs: Path | None) -> Table:
    """Median and best latency of each model in onnxruntime, and the ratio to the first, from interleaved runs."""
    from rich.table import Table

    from .equivalence import read_feeds, synthesise

    feeds = synthesise(models[0], 1)[0] if inputs is None else read_feeds(inputs, models[0])[0]
    sessions = {}
    for path in models:
        try:
            sessions[str(path)] = ort_session(str(path), threads=threads)
        except Exception as error:  # onnxruntime raises its own classes for every kind of unusable model
            raise ModelError(f"{path}: onnxruntime cannot load it: {str(error).splitlines()[0]}") from error
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model")
    for heading in ("median ms", "best ms", "speed", "runs"):
        table.add_column(heading, justify="right")
    for timing in compare_latency(sessions, feeds, seconds=seconds):
        table.add_row(
            timing.label, f"{timing.median * 1e3:.3f}", f"{timing.best * 1e3:.3f}", f"{timing.ratio:.2f}×",
            str(timing.runs),
        )  # fmt: skip
    return table
