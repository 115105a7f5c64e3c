"""Models with unverifiable nodes: the subgraph before those nodes is still optimized and validated.

A node is unverifiable where onnxruntime has no kernel for it, or where its results are dominated by the original's own
noise; so is every node downstream. The other nodes form a model of their own, whose outputs are the operands of the
unverifiable nodes. It is rewritten and compared like any other; the unverifiable nodes, unchanged, then read its
outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError, ModelError
from .ir import Model, Node, Port, Value, VerifyError, captures, clone_model, clone_node, verify
from .measure import figures
from .ops.support import is_implemented
from .pipeline import Outcome, count_nodes
from .validation import EquivalenceCheck

if TYPE_CHECKING:
    from .equivalence import Comparison

SAMPLES = 2
"""Samples on which the noise of values is measured: each costs three runs that return all of the model's values."""


@dataclass(frozen=True, slots=True)
class Front:
    """The verifiable part of a model. ends: the values of `whole` that unverifiable nodes read or the model returns, in
    the order of `model`'s outputs. behind: the unverifiable nodes, in order."""

    model: Model
    whole: Model
    ends: tuple[Value, ...]
    behind: tuple[Node, ...]

    def joined(self, front: Model) -> Model | None:
        """The whole model with a rewritten front; None where opsets differ or the joined graph does not verify."""
        if front.opset != self.whole.opset:
            return None
        joined = clone_model(front)
        graph, values = joined.graph, dict[Value, Value]()
        values.update(zip(self.whole.graph.inputs, graph.inputs, strict=True))
        copies: list[Node] = []  # a result needs an Identity where an operand needs none
        for end, value in zip(self.ends, graph.outputs, strict=True):
            node, values[end] = value.producer, value
            source = node.inputs[0] if node is not None and node.op == "Identity" else None
            if node is not None and source is not None and end not in self.whole.graph.outputs:
                values[end] = source
                copies.append(node)
        for node in self.behind:
            graph.append(clone_node(node, values))
        results = [values.get(v) or Value(v.type, v.name, constant=v.constant) for v in self.whole.graph.outputs]
        graph.set_outputs(results, self.whole.graph.ports)
        for node in copies:
            graph.erase_unused(node)
        joined.opsets = {**self.whole.opsets, **joined.opsets}
        joined.functions = {**self.whole.functions, **joined.functions}
        try:
            verify(joined)
        except VerifyError:
            return None
        return joined


def verifiable_part(model: Model, comparison: Comparison, seed: int) -> Front | None:
    """The front of an unverified model; None where all nodes or none are verifiable, or a value between has no type."""
    seeds = _unrunnable(model) if comparison.samples == 0 else _noisy(model, seed)
    behind: dict[Node, None] = {}
    for node in model.graph:
        reads = (v.producer for v in (*node.inputs, *captures(node)) if v is not None)
        if node in seeds or any(producer in behind for producer in reads):
            behind[node] = None
    if not behind or len(behind) == len(model.graph):
        return None
    read = (v for node in behind for v in (*node.inputs, *captures(node)))
    ends = dict.fromkeys(
        v
        for v in (*read, *model.graph.outputs)
        if v is not None and v.producer is not None and v.producer.graph is model.graph and v.producer not in behind
    )
    front = clone_model(model)
    copies = dict(zip(model.graph.snapshot(), front.graph.snapshot(), strict=True))
    own = {v: port for v, port in zip(model.graph.outputs, model.graph.ports) if v in ends}
    ports = [own.get(v) or Port(v.name, v.type) for v in ends]
    if not ends or any(v.type is None or not port.name for v, port in zip(ends, ports)):
        return None
    front.graph.set_outputs([copies[v.producer].outputs[v.index] for v in ends if v.producer is not None], ports)
    for node in reversed(front.graph.snapshot()):
        front.graph.erase_unused(node)
    return Front(front, model, tuple(ends), tuple(behind)) if len(front.graph) else None


def in_part(
    model: Model, outcome: Outcome, check: EquivalenceCheck, run: Callable[[Model, EquivalenceCheck], Outcome]
) -> tuple[Outcome, EquivalenceCheck, str]:
    """Where a result is unverified: the outcome of its verifiable part, that part's check, a note on the other nodes.

    The outcome is returned unchanged where all was verified, no part is verifiable, or no rewrite applies in that part.
    """
    comparison = check.unverified
    if comparison is None or not any(item.what == "*" for item in outcome.rolled_back):
        return outcome, check, ""
    front = verifiable_part(model, comparison, check.seed)
    if front is None:
        return outcome, check, ""
    partial = EquivalenceCheck(front.model, figures(front.model), check.seed)
    found = run(front.model, partial)
    if found.verdict is None or not found.verdict.ok or not found.log.count:
        return outcome, check, ""
    whole = front.joined(found.model)
    if whole is None:
        return outcome, check, ""
    count = f"{len(front.behind)} of {count_nodes(model)} nodes"
    return (
        replace(found, model=whole), partial, f"{count} stay as they were, what they read is equal: {comparison.reason}"
    )  # fmt: skip


def _unrunnable(model: Model) -> set[Node]:
    """Nodes that onnxruntime has no kernel for."""
    called = {(key.domain, key.name) for key in model.functions}
    return {
        node
        for node in model.graph
        if (node.domain, node.op_type) not in called
        and any(not is_implemented(inner, model.opsets) for inner in (node, *_inside(node)))
    }


def _inside(node: Node) -> Iterable[Node]:
    return (inner for graph in node.subgraphs for inner in graph.walk())


def _noisy(model: Model, seed: int) -> set[Node]:
    """Nodes whose results differ between onnxruntime with optimizations and without, or by the last digit of inputs."""
    from .equivalence.feeds import one_ulp
    from .equivalence.runnable import open_runnable
    from .equivalence.synthesis.search import find_samples

    names = {v.name: node for node in model.graph for v in node.outputs if v.name and not v.is_unused}
    rng = np.random.default_rng(seed)
    try:
        opened = open_runnable(model)
        plain = opened.session(optimize=False, taps=names)
        samples = find_samples(opened, plain, SAMPLES, seed)
        known = [plain.run(s.feeds, [*names]) for s in samples]
        moved = [plain.run(one_ulp(s.feeds, rng), [*names]) for s in samples]
        del plain  # two sessions at once would hold the weights twice
        fast = opened.session(optimize=True, taps=names)
        others = [fast.run(s.feeds, [*names]) for s in samples]
    except (ModelError, InputError):
        return set()
    return {
        node
        for name, node in names.items()
        if any(_differs(a[name], v[name]) for a, b, c in zip(known, moved, others) for v in (b, c))
    }


def _differs(a: object, b: object) -> bool:
    """Two runs of the original differ by more than its scale allows (`equality.NOISY`)."""
    from .equivalence.equality import NOISY, noise_of
    from .equivalence.metrics import magnitude

    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return True
    if a.dtype.kind != "f":
        return a.shape != b.shape or not np.array_equal(a, b)
    noise = noise_of(a, [b])
    return math.isinf(noise) or noise > NOISY * magnitude(a)
