"""Lowering of transformer operators: LayerNormalization, Softmax, activation products, float arithmetic, tables.

A float32 operator is lowered where kernels compute one of its operands; `partition` keeps it on kernels where kernels
also read its result, so that it does not split a region, and leaves it to onnxruntime elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ...errors import Declined
from ...ir import Node, Value
from ...kernels.elementwise.floats import SWAPPED, FloatOp
from ...kernels.elementwise.proved_lines import ChannelTables
from ...kernels.tensors.quantization import Quantization
from ...ops import attr, version_for
from . import operations as op
from .computed_shapes import check_broadcast
from .moves import moved
from .operands import are_floats, constant_array, declared_shape, is_constant, is_float32, read_quantization
from .tables import Island
from .traits import Operation

NORMS = frozenset(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"))
"""Operators of `layer_norm`; the last is onnxruntime's, in ONNX's own domain."""

_KINDS: dict[str, FloatOp] = {"Add": "add", "Sum": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide"}
_AFFINE = frozenset(("Add", "Sub", "Mul", "Div", "Relu", "Clip", "Identity"))
TABULATED = frozenset(("Mul", "Pow", "Tanh", "Sigmoid", "Gelu", "com.microsoft::Gelu", "com.microsoft::QuickGelu"))

_RANK = 4
"""The most axes that kernels of activation products take: two batch axes, rows, columns."""


def float_binary(node: Node, known: Mapping[Value, Operation]) -> op.FloatBinary | None:
    """Add, Sum of two, Sub, Mul or Div of float32; None where kernels compute no operand. Declined where kernels cannot
    broadcast."""
    kind = _KINDS[node.op]
    if len(node.inputs) != 2 or not are_floats(node, known):
        return None
    left, right = node.inputs
    assert left is not None and right is not None
    for x, other, how in ((left, right, kind), (right, left, SWAPPED[kind])):
        if is_constant(other):
            constant = constant_array(other)
            assert constant is not None
            check_broadcast(x, other)
            return op.FloatBinary(inputs=(x,), output=node.output, nodes=(node,), kind=how, constant=constant)
    try:
        check_broadcast(left, right)
    except Declined:
        check_broadcast(right, left)
        return op.FloatBinary(inputs=(right, left), output=node.output, nodes=(node,), kind=SWAPPED[kind])
    return op.FloatBinary(inputs=(left, right), output=node.output, nodes=(node,), kind=kind)


def square(node: Node, known: Mapping[Value, Operation]) -> op.FloatBinary | None:
    """Pow of float32 with the exponent 2; None for others."""
    x, exponent = node.inputs[0], constant_array(node.inputs[1])
    if x is None or exponent is None or exponent.size != 1 or float(exponent.reshape(())) != 2:
        return None
    if exponent.ndim > 1 or not are_floats(node, known):
        return None
    return op.FloatBinary(inputs=(x, x), output=node.output, nodes=(node,), kind="multiply")


def layer_norm(
    node: Node, output: Value, y: Quantization | None, nodes: tuple[Node, ...], known: Mapping[Value, Operation]
) -> op.LayerNorm:
    """LayerNormalization or RMSNormalization over the last axis, to codes of `y`, or to float32 where `y` is None."""
    x = node.inputs[0]
    scale, bias = constant_array(node.input(1)), constant_array(node.input(2))
    if x is None or not is_float32(x) or scale is None or scale.dtype != np.float32:
        raise Declined("LayerNormalization of other than float32 by constants")
    if any(not out.is_unused for out in node.outputs[1:]) or int(attr(node, "stash_type", 1)) != 1:
        raise Declined("LayerNormalization whose mean or deviation is used")
    shape, axis = declared_shape(x), int(attr(node, "axis", -1))
    if axis not in (-1, len(shape) - 1) or not isinstance(shape[-1], int):
        raise Declined("LayerNormalization over other than the last axis")
    if (node.input(2) is not None and bias is None) or any(
        a is not None and (a.size not in (1, shape[-1]) or a.shape[-1:] != a.reshape(-1).shape) for a in (scale, bias)
    ):
        raise Declined("LayerNormalization by other than one factor a channel")
    if y is None and not (x in known and known[x].writes_float):
        raise Declined("an input that kernels do not make")
    epsilon = float(attr(node, "epsilon", 1e-5))
    return op.LayerNorm(
        inputs=(x,), output=output, nodes=nodes, scale=scale, bias=bias, epsilon=epsilon, y=y,
        centred=node.op == "LayerNormalization",
    )  # fmt: skip


def softmax(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, y: Quantization
) -> op.Softmax:
    """Softmax of codes over the last axis."""
    _check_last_axis(node, source)
    return op.Softmax(inputs=(source,), output=output, nodes=nodes, x=x, y=y)


def _check_last_axis(node: Node, x: Value) -> None:
    rank = len(declared_shape(x))
    if int(attr(node, "axis", -1 if version_for(node) >= 13 else 1)) not in (-1, rank - 1):
        raise Declined("Softmax over other than the last axis")


def activation_matmul(
    left: tuple[Value, Quantization], right: tuple[Value, Quantization], output: Value, nodes: tuple[Node, ...],
    y: Quantization | None,
) -> op.ActivationMatMul:  # fmt: skip
    """MatMul of two tensors of codes."""
    _check_ranks(left[0], right[0])
    return op.ActivationMatMul(
        inputs=(left[0], right[0]), output=output, nodes=nodes, a=left[1], b=right[1], y=y
    )  # fmt: skip


def _check_ranks(a: Value, b: Value) -> None:
    ranks = [len(declared_shape(value)) for value in (a, b)]
    if min(ranks) < 2 or max(ranks) > _RANK:
        raise Declined(f"a product of tensors of {ranks[0]} and {ranks[1]} axes")


def float_matmul(node: Node, known: Mapping[Value, Operation]) -> op.FloatMatMul | None:
    """MatMul of two float32 activations; None where kernels compute neither operand."""
    a, b = node.inputs
    if a is None or b is None or is_constant(a) or is_constant(b) or not are_floats(node, known):
        return None
    _check_ranks(a, b)
    return op.FloatMatMul(inputs=(a, b), output=node.output, nodes=(node,))


def float_softmax(node: Node, known: Mapping[Value, Operation]) -> op.FloatSoftmax | None:
    """Softmax over the last axis of float32; None where kernels do not compute its input."""
    x = node.inputs[0]
    if x is None or not are_floats(node, known):
        return None
    _check_last_axis(node, x)
    return op.FloatSoftmax(inputs=(x,), output=node.output, nodes=(node,))


def quantized_table(island: Island, node: Node, y: Quantization, known: Mapping[Value, Operation]) -> Operation:
    """The operation of an island and QuantizeLinear `node` behind it. Declined where a move's target is not known."""
    nodes = (*island.nodes, node)
    codes = y.quantize(island.values) if island.axis is None else None
    if codes is not None and not island.moves:
        return op.Table(inputs=(island.source,), output=node.output, nodes=nodes, table=codes)
    same = codes is not None and np.array_equal(codes, y.codes())
    moves: list[op.Transpose | op.Reshape] = []
    for move in island.moves:
        before = moves[-1].output if moves else island.source
        moves.append(moved(move, before, move.output, (move,), known))
    if same and len(moves) == 1:
        return moved(island.moves[0], island.source, node.output, nodes, known)
    read = dict.fromkeys(value for move in moves for value in move.inputs[1:])
    x = _quantization_read(island) if island.channels > 1 else None
    tables = None if same else ChannelTables(island.channels, lambda: island.values, x, y)
    return op.ChannelTable(
        inputs=(island.source, *read), output=node.output, nodes=nodes, y=y, moves=tuple(moves), tables=tables,
        axis=-1 if island.axis is None else island.axis, x=x,
    )  # fmt: skip


def by_channel(
    node: Node, source: Value, axis: int, x: Quantization, y: Quantization, values: npt.NDArray[np.float32]
) -> op.ChannelTable:
    """A table from codes of x to codes of y for each channel along `axis`, by float32 `values` [channels, 256]."""
    tables = ChannelTables(len(values), lambda: values, x, y)
    return op.ChannelTable(
        inputs=(source,), output=node.output, nodes=(node,), y=y, tables=tables, axis=axis, x=x
    )  # fmt: skip


def _quantization_read(island: Island) -> Quantization:
    """The quantization of the island's source, from its first node, a DequantizeLinear."""
    return read_quantization(island.nodes[0])


def float_table(island: Island, node: Node) -> op.FloatTable | None:
    """The float32 result of an island as a table; None where the island only scales and clips: computing is cheaper."""
    if island.axis is not None or island.moves or all(n.op in _AFFINE for n in island.nodes[1:]):
        return None
    return op.FloatTable(inputs=(island.source,), output=node.output, nodes=island.nodes, table=island.values)
