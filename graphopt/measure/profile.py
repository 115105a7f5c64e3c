"""Seconds of each node in onnxruntime, read from onnxruntime's profile."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..ir import Array, Model, Node, clone_model
from ..machine.sessions import packing, session_options
from .figures import figures
from .latency import open_ort_session

if TYPE_CHECKING:
    import onnxruntime

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class KernelRun:
    """One run of one node: its name, operator and index in onnxruntime's optimized graph, and its seconds."""

    name: str
    op: str
    index: int
    seconds: float


def node_seconds(
    model: Model, feeds: Mapping[str, Array], *, runs: int = 10, threads: int = 1, packs: bool = True
) -> dict[Node, float]:  # fmt: skip
    """The median seconds of each node of the root graph, with fusion off, so that nodes stay unchanged. packs: the
    session packs weights."""
    order = model.graph.snapshot()
    (kernels,) = _profiles([model], feeds, runs, threads, optimize=False, packs=packs)
    matching = [run for run in kernels if run.index < len(order) and order[run.index].op_type == run.op]
    return {node: statistics.median(times) for node, times in _grouped(matching, lambda run: order[run.index]).items()}


def profile_nodes(
    models: Sequence[bytes | Model], feeds: Mapping[str, Array], *, runs: int = 12, threads: int = 1
) -> list[dict[str, float]]:
    """For each model, seconds by the name of the executed node, fusions and layout changes included; onnxruntime
    derives these names from the model's.

    The models run in turn, so that other load on the machine affects all alike; a node's time is the mean of its lower
    half, which interruptions do not affect. The first third of the runs warms up and is not counted.
    """
    profiles = _profiles(models, feeds, runs, threads, optimize=True)
    return [
        {name: _settled(times[len(times) // 3 :]) for name, times in _grouped(p, lambda run: run.name).items()}
        for p in profiles
    ]


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One executed operator of onnxruntime, and the model's nodes that it computes, in their order.

    node: the main node, such as the convolution of a fused norm and activation; None for an operator that onnxruntime
    inserts, such as a change of layout. seconds: of one run. reordered: the node whose result a change of layout
    reorders.
    """

    op: str
    name: str
    node: Node | None
    nodes: tuple[Node, ...]
    seconds: float
    reordered: Node | None = None


_LABEL = re.compile(r"(?<![A-Za-z0-9])n(\d+)_")
"""The label of a node or result, set by `kernel_times`, within the names that onnxruntime derives."""
_INNER = "inner_"
"""The label of nodes of nested graphs, whose time is part of the enclosing node's."""
_LAYOUT = ("ReorderInput", "ReorderOutput")
"""Operators that convert between layouts; their results are named after the tensors that they reorder."""
_Ends = tuple[list[str], list[str]]
_NOTHING: _Ends = ([], [])
_DUMPED = 1 << 30
"""The most bytes of constants for which onnxruntime saves its optimized graph: half of protobuf's limit."""


def kernel_times(
    models: Sequence[Model], feeds: Mapping[str, Array], *, runs: int = 12, threads: int = 1, nested: bool = False
) -> list[list[KernelTime]]:
    """For each model, the executed operators of the root graph, with the nodes that they compute.

    Timed as by `profile_nodes`. A folded or fused node belongs to the operator that absorbs its result. nested: include
    the operators of nested graphs, each with its main node and the total over all iterations of a loop; the enclosing
    node then has the rest of its time.
    """
    labelled = [_labelled(model) for model in models]
    results: list[dict[str, _Ends]] = []
    profiles = _profiles(labelled, feeds, runs, threads, optimize=True, results=results)
    found = [_kernels(model, profile, made) for model, profile, made in zip(models, profiles, results)]
    return [_with_nested(*one, runs) for one in zip(models, found, profiles)] if nested else found


def _labelled(model: Model) -> Model:
    """A copy whose nodes and inner values are named by the index of the node."""
    clone = clone_model(model)
    for number, node in enumerate(clone.graph):
        node.name = f"n{number}_"
        for value in node.outputs:
            if not value.is_result:
                value.name = f"n{number}_{value.index}"
    for number, (inner, _) in enumerate(_nested(clone)):
        inner.name = f"{_INNER}{number}_"  # onnxruntime may take a branch into the root graph, where names differ
        for value in inner.outputs:
            value.name = f"{_INNER}{number}_{value.index}"
    return clone


def _nested(model: Model) -> Iterator[tuple[Node, Node]]:
    """The nodes of nested graphs, each with the enclosing node of the root graph."""
    return ((inner, node) for node in model.graph for body in node.subgraphs for inner in body.walk())


def _with_nested(
    model: Model, kernels: Sequence[KernelTime], profile: Sequence[KernelRun], runs: int
) -> list[KernelTime]:
    """The operators of the root graph and of nested ones."""
    nodes = list(_nested(model))
    found, spent = list[KernelTime](), dict[Node, float]()
    for name, times in _grouped([run for run in profile if run.name.startswith(_INNER)], lambda run: run.name).items():
        node, holder = nodes[int(name.removeprefix(_INNER).partition("_")[0])]
        turns = len(times) / runs
        seconds = _settled(times[len(times) // 3 :]) * turns
        op = next(run.op for run in profile if run.name == name)
        node = _main(node, op)
        found.append(KernelTime(op, name, node, (node,), seconds))
        spent[holder] = spent.get(holder, 0.0) + seconds
    rest = [
        replace(one, seconds=max(0.0, one.seconds - spent[one.node])) if one.node in spent else one for one in kernels
    ]
    return [*rest, *found]


def _main(node: Node, op: str) -> Node:
    """The main node of a fused operator that is named after its activation `node`: the first producer upwards whose
    operator matches; `node` itself without one."""
    above: Node | None = node
    while above is not None and not op.endswith(above.op_type):
        above = above.inputs[0].producer if above.inputs and above.inputs[0] is not None else None
    return node if above is None else above


def _kernels(model: Model, profile: list[KernelRun], results: Mapping[str, _Ends]) -> list[KernelTime]:
    order = model.graph.snapshot()
    named = {value.name: node for node in order for value in node.outputs if value.name}
    groups = _grouped([run for run in profile if not run.name.startswith(_INNER)], lambda run: run.name)
    ops = {run.name: run.op for run in profile}
    starts: dict[str, Node | None] = {
        name: _start(name, results.get(name, _NOTHING)[0], order, named) for name in groups
    }
    owner = {node: name for name, node in reversed(starts.items()) if node is not None}
    for name, (made, _) in results.items():
        for text in made if name in starts else ():
            last = _start(text, (), order, named)
            if last is not None:
                owner.setdefault(last, name)
    for name, start in starts.items():
        stack = [start] if start is not None and owner[start] == name else []
        while stack:  # upwards: nodes without an operator of their own
            for value in stack.pop().inputs:
                if value is not None and value.producer is not None and value.producer not in owner:
                    owner[value.producer] = name
                    stack.append(value.producer)
    for node in order:  # downwards: such as the QuantizeLinear behind a convolution
        before = [v.producer for v in node.inputs if v is not None and v.producer in owner]
        if node not in owner and before and before[0] is not None:
            owner[node] = owner[before[0]]
    parts: dict[str, list[Node]] = {}
    for node in order:
        if node in owner:
            parts.setdefault(owner[node], []).append(node)
    found = []
    for name, times in groups.items():
        start, nodes = starts[name], parts.get(name, [])
        main = start if start is None else next((n for n in nodes if ops[name].endswith(n.op_type)), start)
        seconds = _settled(times[len(times) // 3 :])
        ends = results.get(name, _NOTHING) if name.startswith(_LAYOUT) else _NOTHING
        near = (_start(text, (), order, named) for some in ends for text in some)
        reordered = next((node for node in near if node is not None), None)
        found.append(KernelTime(ops[name], name, main, tuple(nodes), seconds, reordered))
    return found


def _start(name: str, results: Sequence[str], order: Sequence[Node], named: Mapping[str, Node]) -> Node | None:
    """The node after which an operator is named, else the node whose result it computes, else None."""
    if name.startswith(_LAYOUT):
        return None
    for text in (name.removesuffix("_nchwc"), *results):
        label = _LABEL.search(text)
        if label is not None and int(label.group(1)) < len(order):
            return order[int(label.group(1))]
        if text in named:
            return named[text]
    return None


def _profiles(
    models: Sequence[bytes | Model], feeds: Mapping[str, Array], runs: int, threads: int, *, optimize: bool,
    results: list[dict[str, _Ends]] | None = None, packs: bool = True,
) -> list[list[KernelRun]]:  # fmt: skip
    """The runs of every node of each model. `results` receives each node's results and inputs in the executed graph."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        sessions = []
        for number, model in enumerate(models):
            dumped = Path(folder, f"run{number}.onnx")
            dumps = results is not None and isinstance(model, Model) and figures(model).constant_bytes < _DUMPED
            settings = partial(
                _settings, threads, optimize, Path(folder, f"profile{number}"), dumped if dumps else "", packs
            )
            sessions.append(open_ort_session(model, settings))
            if results is not None:
                results.append(_ends_in(dumped))
        for _ in range(runs):
            for session in sessions:
                session.run(None, dict(feeds))
        return [_kernel_runs(Path(session.end_profiling())) for session in sessions]


def _settings(
    threads: int, optimize: bool, profile: Path, dumped: Path | str, packs: bool
) -> onnxruntime.SessionOptions:  # fmt: skip
    """Options of a session that writes a profile, and the executed graph where it has a path."""
    settings = session_options(threads=threads, optimize=optimize, entries=packing(packs))
    settings.enable_profiling = True
    settings.profile_file_prefix, settings.optimized_model_filepath = str(profile), str(dumped)
    return settings


def _ends_in(path: Path) -> dict[str, _Ends]:
    """The names of each node's results and inputs in a model file, by the node's name; empty without a file."""
    if not path.is_file():
        return {}
    import onnx

    proto = onnx.load(path, load_external_data=False)
    return {
        node.name: ([name for name in node.output if name], [name for name in node.input if name])
        for node in proto.graph.node if node.name
    }  # fmt: skip


def _kernel_runs(profile: Path) -> list[KernelRun]:
    """The node events of a profile in order, without onnxruntime's other events."""
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


def _settled(times: Sequence[float]) -> float:
    """The mean of the lower half: interruptions do not affect it, and it resolves fractions of the profile's
    microseconds."""
    return statistics.fmean(sorted(times)[: (len(times) + 1) // 2])
