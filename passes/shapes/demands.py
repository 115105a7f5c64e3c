"""Ranks that operators require hold in every run that completes: the X of LSTM has three axes.

Required ranks flow backwards through operators that keep, add or remove axes, up to values whose rank ONNX's inference
lost, and forwards from there. A run that takes a branch of If whose result has another rank than is required fails, so
the other branch replaces the If. The optimised model may complete runs in which the original fails.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...analysis.operands import integers, shape_of
from ...ir import RETURN, DType, Graph, Node, TensorType, Value
from ...pipeline.passes import graph_pass
from ...rewrite import Context, retype
from ..control.splice import splice

_DEPTH = 24  # the most operators between a branch's result and a known rank: a bound on time
_SWEEPS = 6  # the most visits of the whole graph, each of which may decide branches for the next: a bound on time
_KEEPS_RANK = frozenset(
    (
        "Identity", "Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Neg", "Abs", "Erf", "Cast", "LeakyRelu", "Clip",
        "Softmax", "Floor", "Ceil", "Dropout", "HardSigmoid", "HardSwish", "Elu", "Transpose", "Pad", "Slice",
    )
)  # fmt: skip


@graph_pass("infer-demands")
def infer_demands(graph: Graph, context: Context) -> int:
    """if c then f(x) else g(x) = f(x), where a user of the result requires a rank that g(x) cannot have."""
    changes = _visit(graph, {}, context)
    if not any(node.op == "If" for node in graph.walk()):
        return changes
    for _ in range(_SWEEPS):  # ranks found at the start of a graph decide branches after it
        decided = _visit(graph, {}, context)
        changes += decided
        if not decided:
            break
    return changes


def _visit(graph: Graph, results: Mapping[int, int], context: Context) -> int:
    """Follow required ranks through one graph, from its end; `results`: those required of its results, by index."""
    changes = 0
    for node in reversed(graph):
        wanted = {i: rank for i, value in enumerate(node.outputs) if (rank := _wanted(value, graph, results))}
        for i, rank in wanted.items():
            _set_rank(node.outputs[i], rank)
        if node.op == "If":
            taken = _only_branch(node, wanted)
            if taken is not None and context.commit("drop-branch", node):
                changes += 1 + _visit(taken, wanted, context)
                splice(graph, node, taken)
                continue
        for nested in node.subgraphs:
            changes += _visit(nested, wanted if node.op == "If" else {}, context)
    return changes


def _wanted(value: Value, graph: Graph, results: Mapping[int, int]) -> int | None:
    """The rank that a user in the same graph requires: that user runs whenever the value is computed."""
    for node, slot in value.uses:
        if node.graph is not graph:
            continue
        rank = results.get(slot) if node.op == RETURN else demanded_rank(node, slot)
        if rank is not None:
            return rank
    return None


def demanded_rank(node: Node, slot: int) -> int | None:
    """The rank that operand `slot` of `node` must have; None where several are valid or none is known."""
    if node.domain:
        return None
    if node.op in ("LSTM", "GRU", "RNN"):
        return 3 if slot in (0, 1, 2, 5, 6) else None
    if node.op in ("Conv", "ConvTranspose") and slot == 0:
        weight = shape_of(node.inputs[1])
        return None if weight is None else len(weight)
    if node.op in ("MaxPool", "AveragePool") and slot == 0:
        return len(node.attrs.get("kernel_shape", ())) + 2
    if node.op == "Gemm" and slot < 2:
        return 2
    if slot != 0:
        return None
    if node.op == "Transpose" and node.attrs.get("perm"):
        return len(node.attrs["perm"])
    result = shape_of(node.outputs[0]) if node.outputs else None
    change = _change(node)
    return None if result is None or change is None or len(result) < change else len(result) - change


def _change(node: Node) -> int | None:
    """The result's rank minus the first operand's; None where the operator does not fix the difference."""
    if node.op in _KEEPS_RANK:
        return 0
    axes = integers(node, 1, "axes") if node.op in ("Unsqueeze", "Squeeze") else None
    if axes is None:
        return None
    return len(axes) if node.op == "Unsqueeze" else -len(axes)


def _set_rank(value: Value, rank: int) -> None:
    """Set the rank of a value whose rank is unknown, and infer the types of its users again."""
    type = value.type
    if not isinstance(type, TensorType) or type.shape is not None or type.dtype is DType.UNDEFINED:
        return
    value.type = TensorType(type.dtype, (None,) * rank)
    retype([node for node in value.users if node.op != RETURN])


def _only_branch(node: Node, wanted: Mapping[int, int]) -> Graph | None:
    """The only branch whose results can have the ranks `wanted`; None if both or neither can."""
    branches = [b for b in node.subgraphs if len(b.outputs) == len(node.outputs)]
    if len(branches) != 2 or not wanted:
        return None
    able = [b for b in branches if all(_can_be(b.outputs[i], rank) for i, rank in wanted.items())]
    return able[0] if len(able) == 1 else None


def _can_be(value: Value, rank: int) -> bool:
    ranks = _ranks(value, _DEPTH)
    return ranks is None or rank in ranks


def _ranks(value: Value, depth: int) -> frozenset[int] | None:
    """The ranks that a value may have; None where nothing is known."""
    shape = shape_of(value)
    if shape is not None:
        return frozenset((len(shape),))
    node = value.producer
    if node is None or depth == 0 or node.domain:
        return None
    if node.op == "If":
        branches = [b for b in node.subgraphs if len(b.outputs) == len(node.outputs)]
        ranks = [_ranks(b.outputs[value.index], depth - 1) for b in branches]
        return frozenset[int]().union(*(r for r in ranks if r is not None)) if ranks and None not in ranks else None
    change, operand = _change(node), node.input(0)
    before = None if operand is None or change is None else _ranks(operand, depth - 1)
    return None if before is None or change is None else frozenset(rank + change for rank in before)
