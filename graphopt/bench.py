"""`graphopt bench` and `graphopt warmup`: models side by side on the same inputs, in both runtimes; profiles."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ModelError
from .measure import Timing, compare_latency, ort_session

if TYPE_CHECKING:
    from rich.table import Table


Tell = Callable[[str, "float | None"], None]
"""Called with the current step, and the share that is done, None where it is not known."""


def _silent(what: str, share: float | None) -> None:
    pass


def bench_timings(
    models: Sequence[Path], *, threads: int, seconds: float, inputs: Path | None, progress: Tell = _silent
) -> list[Timing]:
    """Latency of each model in both runtimes, and the ratio to the first, from interleaved runs."""
    from .runtime import Session

    feeds = _feeds(models[0], inputs)
    sessions: dict[str, Any] = {}
    for path in models:
        progress(f"open {path}", None)
        try:
            sessions[f"{path} · onnxruntime"] = ort_session(str(path), threads=threads)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        session = Session(path, threads)
        if session.regions:
            sessions[f"{path} · Session"] = session
    progress(f"time {len(sessions)} sessions, {seconds:g} s each", None)
    return compare_latency(sessions, feeds, seconds=seconds)


def timings_table(timings: Sequence[Timing]) -> Table:
    """Median and best latency, and the speed as a multiple of the first."""
    from rich.markup import escape

    from .report.tables import plain_table

    numbers = ("median ms", "best ms", "speed", "runs")
    table = plain_table(("model", *numbers), right=numbers)
    for timing in timings:
        table.add_row(
            escape(timing.label), f"{timing.median * 1e3:.3f}", f"{timing.best * 1e3:.3f}", f"{timing.ratio:.2f}×",
            str(timing.runs),
        )  # fmt: skip
    return table


def _feeds(model: Path, inputs: Path | None) -> dict[str, Any]:
    """The first of the caller's feeds, or synthesised ones that the model runs on."""
    from .equivalence import read_feeds, synthesise

    return synthesise(model, 1)[0] if inputs is None else read_feeds(inputs, model)[0]


def profile_table(model: Path, *, inputs: Path | None) -> Table:
    """Each step of the model's regions on one thread: time, share of it, GMAC/s, share of the measured ceiling."""
    from rich.table import Table

    from .kernels import select_level
    from .kernels.products.dot_ceiling import peak_rate
    from .runtime import Session
    from .runtime.profile import profile

    steps = profile(Session(model, 1, kernels=True), _feeds(model, inputs))
    if not steps:
        raise ModelError(f"{model}: nothing in it runs on kernels")
    ceiling, total = peak_rate(select_level()), sum(step.seconds for step in steps)
    table = Table(box=None, pad_edge=False, header_style="bold", caption=f"ceiling {ceiling:.0f} GMAC/s")
    table.add_column("step")
    table.add_column("kernel")
    for heading in ("µs", "share", "GMAC/s", "of ceiling"):
        table.add_column(heading, justify="right")
    for step in sorted(steps, key=lambda step: -step.seconds):
        rate = (f"{step.rate:.1f}", f"{step.rate / ceiling:.0%}") if step.macs else ("", "")
        share = f"{step.seconds / total:.1%}"
        table.add_row(step.operation, step.kernel, f"{step.seconds * 1e6:.1f}", share, *rate)
    return table


def warmup_table(model: Path, *, threads: int, seconds: float, inputs: Path | None, progress: Tell = _silent) -> Table:
    """Compile the model's kernels, time its regions in both runtimes, remember the times for later sessions."""
    from rich.table import Table

    from .runtime.warmup import warmup

    feeds = _feeds(model, inputs)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("part", "kernels ms", "onnxruntime ms", "runs on"):
        table.add_column(heading, justify="left" if heading in ("part", "runs on") else "right")
    compiled = itertools.count(1)

    def tell(key: str) -> None:
        progress(f"compile kernel {next(compiled)}", None)  # a key is a digest, which tells a reader nothing

    for timing in warmup(str(model), feeds, threads=threads, seconds=seconds, progress=tell):
        milliseconds = f"{timing.kernels * 1e3:.3f}", f"{timing.onnxruntime * 1e3:.3f}"
        table.add_row(timing.part, *milliseconds, timing.runs_on)
    return table
