"""Legitimate differences: results decided by tied scores, or random without a seed; and replay of selections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from ..ir import Array
from ..ops import nested_graphs
from .metrics import magnitude, max_error
from .onnx_graph import GraphIndex

_KEEPS_ORDER = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten")
_COMPARES = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
_ROUNDS = ("QuantizeLinear", "Cast")
RANDOM = frozenset((
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
))  # fmt: skip


_SELECTS = frozenset(("TopK", "ArgMax", "ArgMin", "NonMaxSuppression"))


@dataclass(frozen=True, slots=True)
class DecidingOperator:
    """The operator that decides an integer output, and the float values that it reads (`scores`: names to tap)."""

    op: str
    scores: tuple[str, ...]
    axis: int = 0
    constant: Array | None = None
    step: Array | None = None


def find_decider(output: str, index: GraphIndex) -> DecidingOperator | None:
    """The operator that decides an integer output, found upstream through operators that keep the order of elements."""
    name = output
    for _ in range(12):
        node = index.producer.get(name)
        if node is None:
            return None
        attrs = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
        op = node.op_type
        if op in ("ArgMax", "ArgMin"):
            return DecidingOperator(op, (node.input[0],), attrs.get("axis", 0))
        if op == "TopK" and name == node.output[1]:
            return DecidingOperator(op, (node.input[0],), attrs.get("axis", -1))
        if op == "NonMaxSuppression":
            return DecidingOperator(op, ())
        if op in _COMPARES:
            computed = tuple(n for n in node.input if n not in index.constants)
            constant = next((index.array(n) for n in node.input if n in index.constants), None)
            return DecidingOperator(op, computed, constant=constant)
        if op == "QuantizeLinear":
            scale = index.array(node.input[1])
            return None if scale is None or scale.size != 1 else DecidingOperator(op, (node.input[0],), step=scale)
        if op not in _KEEPS_ORDER:
            return None
        if op == "Cast" and find_decider(node.input[0], index) is None:
            return DecidingOperator(op, (node.input[0],))  # `tied` looks at float scores only
        name = node.input[0]
    return None


def tied(
    decider: DecidingOperator, a: Array, b: Array, scores: Mapping[str, Array], moved: Mapping[str, Array], rtol: float
) -> Array | None:
    """Where the original's own scores allow b's answer instead of a's (bool array of a's shape); None without scores.

    `scores` and `moved`: the original's scores, unchanged and under a one-ulp change of the inputs.
    """
    if any(n not in scores or scores[n].dtype.kind != "f" for n in decider.scores) or not decider.scores:
        return None
    first = scores[decider.scores[0]]
    noise = max((max_error(scores[n], moved[n]) for n in decider.scores if _alike(scores, moved, n)), default=0.0)
    tolerance = max(rtol * magnitude(first), 3 * noise)
    if decider.op in _COMPARES:
        return _tied_comparison(decider, a, first, scores, tolerance)
    if decider.op in _ROUNDS:
        return _tied_rounding(decider, a, b, first, tolerance)
    axis = decider.axis % max(first.ndim, 1)
    shape = (*first.shape[:axis], -1, *first.shape[axis + 1 :])
    if a.size == 0 or a.size * first.shape[axis] % first.size:
        return None
    chosen_a, chosen_b = a.reshape(shape).astype(np.int64), b.reshape(shape).astype(np.int64)
    if chosen_b.min() < 0 or chosen_b.max() >= first.shape[axis]:
        return None
    wide = first.astype(np.float64)
    gap = np.abs(np.take_along_axis(wide, chosen_a, axis) - np.take_along_axis(wide, chosen_b, axis))
    return np.asarray(gap <= tolerance).reshape(a.shape)


def _alike(scores: Mapping[str, Array], moved: Mapping[str, Array], name: str) -> bool:
    return name in moved and moved[name].shape == scores[name].shape


def _tied_comparison(
    decider: DecidingOperator, a: Array, first: Array, scores: Mapping[str, Array], tolerance: float
) -> Array | None:
    second = decider.constant if decider.constant is not None else scores[decider.scores[-1]]
    gap = np.abs(np.subtract(first, second, dtype=np.float64))
    return np.asarray(gap <= tolerance).reshape(a.shape) if gap.size == a.size else None


def _tied_rounding(decider: DecidingOperator, a: Array, b: Array, x: Array, tolerance: float) -> Array | None:
    if x.size != a.size:
        return None
    step = 1.0 if decider.step is None else float(decider.step.item())
    position = x.astype(np.float64).reshape(a.shape) / step + (0.5 if decider.op == "QuantizeLinear" else 0.0)
    near = np.abs(position - np.round(position)) <= tolerance / step
    return np.asarray(near & (np.abs(a.astype(np.int64) - b.astype(np.int64)) <= 1))


def same_rows(a: Array, b: Array) -> bool:
    """Whether two [n, k] arrays hold the same rows, in any order."""
    if a.ndim != 2 or a.shape != b.shape:
        return False
    return sorted(map(tuple, a.tolist())) == sorted(map(tuple, b.tolist()))


def random_outputs(index: GraphIndex, outputs: list[str]) -> tuple[dict[str, str], bool]:
    """Outputs that depend on a random operator without a seed, with its name; whether any operator is random."""
    tainted: dict[str, str] = {}
    has_random = False
    for node in index.order:
        op = random_op(node, index)
        has_random = has_random or op is not None
        if op is not None and _is_seeded(node):
            op = None
        if op is None:
            op = next((tainted[n] for n in node.input if n in tainted), None)
        if op is not None:
            tainted.update(dict.fromkeys((o for o in node.output if o), op))
    return {o: tainted[o] for o in outputs if o in tainted}, has_random


def random_op(node: onnx.NodeProto, index: GraphIndex) -> str | None:
    """The random operator of a node or of its nested graphs; None where its results are the same in every run."""
    if node.op_type in RANDOM:
        return node.op_type
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        training = index.array(node.input[2])
        return "Dropout" if training is None or bool(training.any()) else None
    for graph in nested_graphs(node):
        for inner in graph.node:
            op = random_op(inner, index)
            if op is not None:
                return op
    return None


def _is_seeded(node: onnx.NodeProto) -> bool:
    return any(a.name == "seed" for a in node.attribute)


@dataclass(frozen=True, slots=True)
class Replay:
    """Copies of two models that take the original's selections as inputs.

    selected: the names of the original's selections, by these inputs. The operands of selectors become outputs of both
    copies: where they agree, the models select alike but for ties.
    """

    a: onnx.ModelProto
    b: onnx.ModelProto
    selected: Mapping[str, str]


def replay_selections(a: onnx.ModelProto, b: onnx.ModelProto) -> Replay | None:
    """The models with selections as inputs; None without selections, or where those of the models do not pair up."""
    ours, theirs = _selectors(a), _selectors(b)
    if not ours or sorted(ours) != sorted(theirs):
        theirs = dict(zip(ours, theirs.values())) if len(ours) == len(theirs) else {}
    if not theirs or any(_kind(ours[n]) != _kind(theirs[n]) for n in ours):
        return None
    first, second = (_replaying(proto, [nodes[n] for n in ours]) for proto, nodes in ((a, ours), (b, theirs)))
    return Replay(first, second, {f"selection::{number}": name for number, name in enumerate(ours)})


def _selectors(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The selecting operators, by the name of their output of indexes."""
    return {_indexes(node): node for node in proto.graph.node if node.op_type in _SELECTS and _indexes(node)}


def _indexes(node: onnx.NodeProto) -> str:
    return str(node.output[1] if node.op_type == "TopK" else node.output[0])


def _kind(node: onnx.NodeProto) -> tuple[str, list[bytes]]:
    return node.op_type, sorted(a.SerializeToString() for a in node.attribute)


def _replaying(proto: onnx.ModelProto, selectors: list[onnx.NodeProto]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    numbers = {_indexes(node): number for number, node in enumerate(selectors)}
    del copy.graph.node[:]
    for node in proto.graph.node:
        if node.op_type not in _SELECTS or _indexes(node) not in numbers:
            copy.graph.node.add().CopyFrom(node)
            continue
        fed = f"selection::{numbers[_indexes(node)]}"
        copy.graph.input.append(onnx.helper.make_tensor_value_info(fed, onnx.TensorProto.INT64, None))
        copy.graph.node.append(onnx.helper.make_node("Identity", [fed], [_indexes(node)]))
        if node.op_type == "TopK" and node.output[0]:
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
            gather = onnx.helper.make_node("GatherElements", [node.input[0], fed], [node.output[0]], axis=axis)
            copy.graph.node.append(gather)
        for slot, name in enumerate(node.input):
            if name:
                copy.graph.node.append(onnx.helper.make_node("Identity", [name], [f"{fed}::{slot}"]))
                copy.graph.output.append(onnx.ValueInfoProto(name=f"{fed}::{slot}"))
    return copy
