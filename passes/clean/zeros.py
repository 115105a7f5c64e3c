"""The sign of zero: −0 + 0 is +0, and a few operators tell −0 from +0, as 1 / x does."""

from __future__ import annotations

from ...ir import RETURN, DType, Node, Value
from ...ops import attr

_READERS = 64
"""Values followed per x + 0: a bound on time. Values further away are assumed not to distinguish −0."""

_ONE_RESULT = frozenset(
    (
        "Exp", "Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax", "Hardmax", "Softplus", "Cos", "Cosh", "Acos", "Abs",
        "Log", "Sign", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "IsNaN", "IsInf", "NonZero",
        "Shape", "Size", "ArgMax", "ArgMin", "QuantizeLinear", "DynamicQuantizeLinear", "Conv", "ConvTranspose",
        "MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN", "LayerNormalization", "InstanceNormalization",
        "GroupNormalization",
    )
)  # fmt: skip
"""Operators that give one result for both zeros. Sums of products start at +0, to which −0 adds nothing."""


def sign_of_zero_tells(value: Value) -> bool:
    """Whether a reader of `value`, or of values computed from it, may give another number for −0 than for +0.

    Results of the model do not count: −0 equals +0.
    """
    seen, queue = {value}, [value]
    for current in queue:  # grows
        if len(seen) > _READERS:
            break
        for node, slot in current.uses:
            if node.op == RETURN:
                if node.graph is not None and node.graph.owner is not None:
                    return True
            elif _tells(node, slot):
                return True
            elif not _gives_one_result(node, slot):
                new = [out for out in node.outputs if out not in seen]
                seen.update(new)
                queue.extend(new)
    return False


def _tells(node: Node, slot: int) -> bool:
    if node.domain or node.subgraphs or (node.op == "Div" and slot == 1) or node.op == "Reciprocal":
        return True
    if node.op == "Pow" and slot == 0:
        exponent = node.constant(1)
        return exponent is None or bool((exponent.array() < 0).any())
    return (node.op == "Cast" and attr(node, "to", 0) == int(DType.STRING)) or node.op == "BitCast"


def _gives_one_result(node: Node, slot: int) -> bool:
    if node.op in ("Add", "Sub"):
        other = node.constant(1 - slot)
        return other is not None and other.dtype.is_float and bool(other.array().all())
    return node.op in _ONE_RESULT
