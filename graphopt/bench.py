"""`graphopt bench` and `graphopt warmup`: models side by side on the same inputs, in both runtimes; profiles."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import onnx_io
from .errors import ModelError
from .ir import Node
from .measure import KernelTime, Timing, compare_latency, kernel_times, ort_session
from .provenance import Provenance, read

if TYPE_CHECKING:
    from rich.table import Table

    from .runtime.profile import StepTime
    from .runtime.warmup import PartitionTiming, RegionTiming

Tell = Callable[[str, "float | None"], None]
"""Called with the current step and the fraction done, None where unknown."""


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


@dataclass(frozen=True, slots=True)
class Profile:
    """Time per operator and per step of models, on one thread.

    kernels: onnxruntime's operators of each model; origins: the provenance of the second of two models; steps: of each
    model's Session, empty where no region runs on kernels.
    """

    names: tuple[str, ...]
    kernels: tuple[Sequence[KernelTime], ...]
    steps: tuple[Sequence[StepTime], ...]
    origins: Provenance | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, by model; for two models also the rows of operators with equal results."""
        models = [
            {"model": name, "operators": [_operator(k) for k in kernels], "steps": [asdict(step) for step in steps]}
            for name, kernels, steps in zip(self.names, self.kernels, self.steps)
        ]
        if len(models) != 2:
            return {"models": models}
        before, after = self.kernels
        rows = beside(before, after, self.origins)
        pairs = [{"before": [k.name for k in ours], "after": [k.name for k in theirs]} for ours, theirs in rows]
        return {"models": models, "beside": pairs}

    def tables(self) -> Iterator[Table]:
        """Tables of operators by node, two models side by side; then of the steps of each model's Session."""
        if len(self.names) == 2:
            yield _beside_table(self.names, self.kernels[0], self.kernels[1], self.origins)
        else:
            for name, kernels in zip(self.names, self.kernels):
                yield _node_table(name, kernels)
        for name, steps in zip(self.names, self.steps):
            if steps:
                yield _step_table(name, steps)


def _operator(kernel: KernelTime) -> dict[str, Any]:
    names = [node.name or node.output.name for node in kernel.nodes]
    node = None if kernel.node is None else _node_name(kernel)
    return {"name": kernel.name, "runs_as": kernel.op, "node": node, "computes": names, "seconds": kernel.seconds}


def profile_models(models: Sequence[Path], *, inputs: Path | None) -> Profile:
    """Measure onnxruntime's operators by node, and the kernels of each model's Session step by step."""
    from .runtime import Session
    from .runtime.profile import profile

    feeds = _feeds(models[0], inputs)
    lifted = [onnx_io.load(path) for path in models]
    times = kernel_times(lifted, feeds)
    found = read(models[1], lifted[1].metadata) if len(models) == 2 else None
    origins = found if found is not None and found.is_of(lifted[0].graph) else None
    steps = [profile(Session(path, 1, kernels=True), feeds) for path in models]
    return Profile(tuple(path.name for path in models), tuple(times), tuple(steps), origins)


def _node_table(title: str, kernels: Sequence[KernelTime]) -> Table:
    """A row an operator: the node of its name, the nodes fused into it, its time and share."""
    from rich.table import Table

    total = sum(kernel.seconds for kernel in kernels) or 1.0
    table = Table(
        title=f"{title} · onnxruntime", title_justify="left", box=None, pad_edge=False, header_style="bold",
        caption=f"{total * 1e6:.1f} µs in {len(kernels)} operators, one thread",
    )  # fmt: skip
    for heading in ("node", "runs as", "µs", "share", "with"):
        right = heading in ("µs", "share")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for kernel in sorted(kernels, key=lambda kernel: -kernel.seconds):
        taken = Counter(node.op_type for node in kernel.nodes if node is not kernel.node)
        table.add_row(
            _node_name(kernel), kernel.op, f"{kernel.seconds * 1e6:.1f}", f"{kernel.seconds / total:.1%}",
            ", ".join(f"{op} ×{n}" if n > 1 else op for op, n in taken.items()),
        )  # fmt: skip
    return table


def _node_name(kernel: KernelTime) -> str:
    node = kernel.node
    return "(added by onnxruntime)" if node is None else node.name or node.output.name or kernel.name


def _beside_table(
    titles: Sequence[str], before: Sequence[KernelTime], after: Sequence[KernelTime], origins: Provenance | None
) -> Table:
    """A row a group of operators with equal results, the slowest first: its time before and after."""
    from rich.table import Table

    table = Table(
        title=f"{titles[0]} → {titles[1]} · onnxruntime", title_justify="left", box=None, pad_edge=False,
        header_style="bold", caption="one thread, interleaved; operators are matched by provenance and by name",
    )  # fmt: skip
    for heading in ("node", "before", "µs", "after", "µs", "speed"):
        table.add_column(heading, justify="right" if heading in ("µs", "speed") else "left", overflow="fold")
    for ours, theirs in sorted(
        beside(before, after, origins), key=lambda row: -max(sum(k.seconds for k in side) for side in row)
    ):
        old, new = (sum(kernel.seconds for kernel in side) for side in (ours, theirs))
        named = next((k for k in (*ours, *theirs) if k.node is not None), (*ours, *theirs)[0])
        table.add_row(
            _node_name(named), _ops(ours), f"{old * 1e6:.1f}" if ours else "", _ops(theirs),
            f"{new * 1e6:.1f}" if theirs else "", f"{old / new:.2f}×" if ours and theirs and new else "",
        )  # fmt: skip
    old, new = (sum(kernel.seconds for kernel in side) for side in (before, after))
    speed = f"{old / new:.2f}×" if new else ""
    table.add_row("in all", "", f"{old * 1e6:.1f}", "", f"{new * 1e6:.1f}", speed, style="bold")
    return table


def _ops(kernels: Sequence[KernelTime]) -> str:
    counts = Counter(kernel.op for kernel in kernels)
    return ", ".join(f"{op} ×{n}" if n > 1 else op for op, n in counts.items())


def beside(
    before: Sequence[KernelTime], after: Sequence[KernelTime], origins: Provenance | None
) -> list[tuple[list[KernelTime], list[KernelTime]]]:
    """Groups of operators with equal results, by provenance and names; each operator is in one. A side may be empty."""
    import networkx as nx

    place: dict[str, int] = {}  # the index of the first model's operator, by the names of the nodes fused into it
    for i, kernel in enumerate(before):
        for node in kernel.nodes:
            for name in (*node.origins, node.name, *(v.name for v in node.outputs)):
                if name:
                    place.setdefault(name, i)
    links: Any = nx.Graph()
    links.add_nodes_from(("before", i) for i in range(len(before)))
    links.add_nodes_from(("after", j) for j in range(len(after)))
    for j, kernel in enumerate(after):
        main = () if kernel.node is None else (kernel.node,)
        for nodes in (main, kernel.nodes):
            found = {place[name] for node in nodes for name in _names(node, origins) if name in place}
            links.add_edges_from((("before", i), ("after", j)) for i in found)
            if found:
                break
    groups = []
    for part in nx.connected_components(links):
        ours = [before[i] for side, i in sorted(part) if side == "before"]
        groups.append((ours, [after[j] for side, j in sorted(part) if side == "after"]))
    return groups


def _names(node: Node, origins: Provenance | None) -> tuple[str, ...]:
    """The names of the original nodes of a node of the second model, or else its own names."""
    results = [value.name for value in node.outputs if value.name]
    kept = None if origins is None or not results else origins.nodes.get(results[0])
    return kept.sources if kept is not None and kept.sources else (node.name, *results)


def _step_table(name: str, steps: Sequence[StepTime]) -> Table:
    """Each step of the model's regions on one thread: time, share of it, GMAC/s, share of the measured ceiling."""
    from rich.table import Table

    from .kernels import select_level
    from .kernels.products.dot_ceiling import peak_rate

    ceiling, total = peak_rate(select_level()), sum(step.seconds for step in steps)
    table = Table(
        title=f"{name} · Session", title_justify="left", box=None, pad_edge=False, header_style="bold",
        caption=f"ceiling {ceiling:.0f} GMAC/s",
    )  # fmt: skip
    table.add_column("step")
    table.add_column("kernel")
    for heading in ("µs", "share", "GMAC/s", "of ceiling"):
        table.add_column(heading, justify="right")
    for step in sorted(steps, key=lambda step: -step.seconds):
        rate = (f"{step.rate:.1f}", f"{step.rate / ceiling:.0%}") if step.macs else ("", "")
        share = f"{step.seconds / total:.1%}"
        table.add_row(step.operation, step.kernel, f"{step.seconds * 1e6:.1f}", share, *rate)
    return table


def warmup_timings(
    model: Path, *, threads: int, seconds: float, inputs: Path | None, progress: Tell = _silent
) -> list[RegionTiming | PartitionTiming]:
    """Compile the model's kernels, time its regions and partitions, remember the times for later sessions."""
    from .runtime.warmup import warmup

    compiled = itertools.count(1)

    def tell(key: str) -> None:
        progress(f"compile kernel {next(compiled)}", None)  # a region's key is a digest, meaningless to a reader

    return warmup(str(model), _feeds(model, inputs), threads=threads, seconds=seconds, progress=tell)


def warmup_table(timings: Sequence[RegionTiming | PartitionTiming]) -> Table:
    """A row a region with its time in both runtimes; a row a partition with its time and the predicted partition's."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("part", "on", "ms", "beside", "ms", "better"):
        table.add_column(heading, justify="right" if heading == "ms" else "left")
    for timing in timings:
        table.add_row(*_cells(timing), timing.runs_on)
    return table


def _cells(timing: RegionTiming | PartitionTiming) -> tuple[str, ...]:
    from .runtime.warmup import RegionTiming

    if isinstance(timing, RegionTiming):
        return timing.part, "kernels", f"{timing.kernels * 1e3:.3f}", "onnxruntime", f"{timing.onnxruntime * 1e3:.3f}"
    seconds = ("not measured" if one is None else f"{one * 1e3:.3f}" for one in (timing.seconds, timing.predicted))
    return "model", timing.part, next(seconds), "as predicted", next(seconds)
