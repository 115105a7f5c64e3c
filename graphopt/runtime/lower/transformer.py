"""Matchers of what stands between a transformer's products: float arithmetic, LayerNormalization, Softmax, attention.

Float operations are covered where kernels make one of their operands; `partition` keeps them where kernels also read
the result, so that a region is not cut, and leaves the rest to onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...errors import Declined
from ...ir import DType, Node, TensorType, Value
from ...kernels.elementwise.floats import SWAPPED, FloatOp
from ...kernels.normalization.lrn import MAX_SIZE
from ...kernels.tensors.broadcasting import broadcast
from ...kernels.tensors.quantization import Quantization
from ...ops import attr, version_for
from .moves import moved
from .operands import constant_array, is_constant
from .operations import (
    ActivationMatMul,
    ChannelTable,
    FloatBinary,
    FloatMatMul,
    FloatSoftmax,
    FloatTable,
    LayerNorm,
    Lrn,
    MaxPool,
    Operation,
    Reshape,
    Softmax,
    Table,
    Transpose,
    is_float,
)
from .tables import Island
from .vision import are_floats, float_concat, float_pool, hard_sigmoid

_KINDS: dict[str, FloatOp] = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide"}
_AFFINE = frozenset(("Add", "Sub", "Mul", "Div", "Relu", "Clip", "Identity"))
TABULATED = frozenset(("Mul", "Tanh", "Sigmoid", "Gelu", "com.microsoft::Gelu", "com.microsoft::QuickGelu"))
_OPEN = 7  # stands for a size that is not known
_RANK = 4  # axes of an activation product: two of batch


def shape_of(value: Value) -> tuple[int | str | None, ...]:
    """The declared shape of a float32 value or codes. Declined where rank or type are not known."""
    declared = value.type
    if not isinstance(declared, TensorType) or declared.shape is None:
        raise Declined("a value of unknown rank")
    return declared.shape


def _is_float32(value: Value | None) -> bool:
    return value is not None and isinstance(value.type, TensorType) and value.type.dtype is DType.FLOAT


def float_binary(node: Node, known: Mapping[Value, Operation]) -> FloatBinary | None:
    """Add, Sub, Mul or Div in float32 of which kernels make an operand; None where they make none."""
    kind = _KINDS[node.op]
    if not are_floats(node, known):
        return None
    left, right = node.inputs
    assert left is not None and right is not None
    for x, other, how in ((left, right, kind), (right, left, SWAPPED[kind])):
        if is_constant(other):
            constant = constant_array(other)
            assert constant is not None
            _fits(x, other)
            return FloatBinary(inputs=(x,), output=node.output, nodes=(node,), kind=how, constant=constant)
    try:
        _fits(left, right)
    except Declined:
        _fits(right, left)
        return FloatBinary(inputs=(right, left), output=node.output, nodes=(node,), kind=SWAPPED[kind])
    return FloatBinary(inputs=(left, right), output=node.output, nodes=(node,), kind=kind)


def _fits(x: Value, other: Value) -> None:
    """Declined where `other` cannot broadcast to x. Sizes that are open are taken to be equal; a plan knows better."""
    left, right = shape_of(x), shape_of(other)
    sizes = [
        tuple(dim if isinstance(dim, int) else against if isinstance(against, int) else _OPEN for dim, against in pairs)
        for pairs in (
            zip(left, (*[_OPEN] * (len(left) - len(right)), *right)),
            zip(right, left[max(0, len(left) - len(right)) :]),
        )
    ]
    try:
        broadcast(*sizes)
    except ValueError as error:
        raise Declined(str(error)) from error


def layer_norm(
    node: Node, output: Value, y: Quantization | None, nodes: tuple[Node, ...], known: Mapping[Value, Operation]
) -> LayerNorm:
    """LayerNormalization over the last axis, quantized behind or not."""
    x = node.inputs[0]
    scale, bias = constant_array(node.input(1)), constant_array(node.input(2))
    if x is None or not _is_float32(x) or scale is None or scale.dtype != np.float32:
        raise Declined("LayerNormalization of other than float32 by constants")
    if any(not out.is_unused for out in node.outputs[1:]) or int(attr(node, "stash_type", 1)) != 1:
        raise Declined("LayerNormalization whose mean or deviation is used")
    shape, axis = shape_of(x), int(attr(node, "axis", -1))
    if axis not in (-1, len(shape) - 1) or not isinstance(shape[-1], int):
        raise Declined("LayerNormalization over other than the last axis")
    if (node.input(2) is not None and bias is None) or any(
        a is not None and (a.size not in (1, shape[-1]) or a.shape[-1:] != a.reshape(-1).shape) for a in (scale, bias)
    ):
        raise Declined("LayerNormalization by other than one factor a channel")
    if y is None and not (x in known and is_float(known[x])):
        raise Declined("an input that kernels do not make")
    epsilon = float(attr(node, "epsilon", 1e-5))
    return LayerNorm(inputs=(x,), output=output, nodes=nodes, scale=scale, bias=bias, epsilon=epsilon, y=y)


def softmax(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, y: Quantization
) -> Softmax:
    """Softmax of codes over the last axis."""
    shape = shape_of(source)
    axis = int(attr(node, "axis", -1 if version_for(node) >= 13 else 1))
    if axis not in (-1, len(shape) - 1):
        raise Declined("Softmax over other than the last axis")
    return Softmax(inputs=(source,), output=output, nodes=nodes, x=x, y=y)


def lrn(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, y: Quantization,
    pool: MaxPool | None,
) -> Lrn:  # fmt: skip
    """LRN of codes, perhaps with a MaxPool between it and QuantizeLinear."""
    if len(shape_of(source)) not in (3, 4) or not 0 < int(node.attrs["size"]) <= MAX_SIZE:
        raise Declined("LRN of other than an image, or over too many channels")
    return Lrn(
        inputs=(source,), output=output, nodes=nodes, x=x, y=y, size=int(node.attrs["size"]),
        alpha=float(attr(node, "alpha", 1e-4)), beta=float(attr(node, "beta", 0.75)),
        bias=float(attr(node, "bias", 1.0)), pool=pool,
    )  # fmt: skip


def activation_matmul(
    left: tuple[Value, Quantization], right: tuple[Value, Quantization], output: Value, nodes: tuple[Node, ...],
    y: Quantization | None,
) -> ActivationMatMul:  # fmt: skip
    """MatMul of two tensors of codes."""
    ranks = [len(shape_of(value)) for value, _ in (left, right)]
    if min(ranks) < 2 or max(ranks) > _RANK:
        raise Declined(f"a product of tensors of {ranks[0]} and {ranks[1]} axes")
    return ActivationMatMul(
        inputs=(left[0], right[0]), output=output, nodes=nodes, a=left[1], b=right[1], y=y
    )  # fmt: skip


def float_matmul(node: Node, known: Mapping[Value, Operation]) -> FloatMatMul | None:
    """MatMul of two float32 activations of which kernels make one; None elsewhere."""
    a, b = node.inputs
    if a is None or b is None or is_constant(a) or is_constant(b) or not are_floats(node, known):
        return None
    ranks = [len(shape_of(value)) for value in (a, b)]
    if min(ranks) < 2 or max(ranks) > _RANK:
        raise Declined(f"a product of tensors of {ranks[0]} and {ranks[1]} axes")
    return FloatMatMul(inputs=(a, b), output=node.output, nodes=(node,))


def float_softmax(node: Node, known: Mapping[Value, Operation]) -> FloatSoftmax | None:
    """Softmax over the last axis of float32 that kernels make; None elsewhere."""
    x = node.inputs[0]
    if x is None or not are_floats(node, known):
        return None
    if int(attr(node, "axis", -1 if version_for(node) >= 13 else 1)) not in (-1, len(shape_of(x)) - 1):
        raise Declined("Softmax over other than the last axis")
    return FloatSoftmax(inputs=(x,), output=node.output, nodes=(node,))


def table_of(found: Island, node: Node, y: Quantization, known: Mapping[Value, Operation]) -> Operation:
    """The operation of QuantizeLinear `node` behind an island. Declined where a move's target is not known."""
    codes, nodes = y.quantize(found.values), (*found.nodes, node)
    if found.axis is None and not found.moves:
        return Table(inputs=(found.source,), output=node.output, nodes=nodes, table=codes)
    same = found.axis is None and np.array_equal(codes, y.codes())
    moves: list[Transpose | Reshape] = []
    for move in found.moves:
        before = moves[-1].output if moves else found.source
        made = moved(move, before, move.output, (move,), known)
        moves.append(made)
    if same and len(moves) == 1:
        return moved(found.moves[0], found.source, node.output, nodes, known)
    read = dict.fromkeys(value for move in moves for value in move.inputs[1:])
    return ChannelTable(
        inputs=(found.source, *read), output=node.output, nodes=nodes, tables=None if same else codes.reshape(-1, 256),
        axis=-1 if found.axis is None else found.axis, y=y, moves=tuple(moves),
    )  # fmt: skip


def float_table(found: Island, node: Node) -> FloatTable | None:
    """The float result of an island that does more than scale: cheaper looked up than computed."""
    if found.axis is not None or found.moves or all(n.op in _AFFINE for n in found.nodes[1:]):
        return None
    return FloatTable(inputs=(found.source,), output=node.output, nodes=found.nodes, table=found.values)


MATCHERS: dict[str, Callable[[Node, Mapping[Value, Operation]], Operation | None]] = {
    "Softmax": float_softmax,
    "MaxPool": float_pool,
    "AveragePool": float_pool,
    "GlobalAveragePool": float_pool,
    "HardSigmoid": hard_sigmoid,
    "Concat": float_concat,
}
