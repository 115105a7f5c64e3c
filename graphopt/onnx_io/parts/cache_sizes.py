"""Head sizes of a decoder's caches, inferred from its operators where the file leaves them open, as kv_cache_dim."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from ...ir import Graph, TensorType

Sizes = dict[str, dict[int, int]]
"""Sizes by the axis of an input, by its name."""

_ROW, _RANK = -1, 4
"""The axis of a head's elements, and the number of axes of a cache [batch, heads, tokens, size]."""
_KEPT = frozenset(("Cast", "Identity", "Add", "Mul", "Transpose", "RotaryEmbedding", "SimplifiedLayerNormalization"))
"""Operators that keep the last size of their first operand; Transpose if the last axis stays last."""
_STEPS = 16
"""The most operators followed from a cache to the product that computes its rows: twice what exporters write."""


def cache_sizes(graph: onnx.GraphProto) -> Sizes:
    """The head size of each cache input of open size that GroupQueryAttention reads or Concat extends.

    For GroupQueryAttention, the width of the queries' product divided by the heads; for Concat, the last size of the
    appended operand.
    """
    open_inputs = {value.name for value in graph.input if _is_open(value)}
    if not open_inputs:
        return {}
    widths = _Widths(graph)
    sizes: Sizes = {}
    for node in graph.node:
        found = [(name, slot) for slot, name in enumerate(node.input) if name in open_inputs]
        size = _head_size(node, found[0][1], widths) if found else None
        sizes.update((name, {_RANK - 1: size}) for name, _ in found if size)
    return sizes


def set_sizes(graph: Graph, sizes: Sizes) -> None:
    """Set sizes of a graph's inputs that its file leaves open."""
    for value in graph.inputs if sizes else ():
        known = value.type
        if value.name in sizes and isinstance(known, TensorType) and known.shape is not None:
            shape = tuple(sizes[value.name].get(axis, dim) for axis, dim in enumerate(known.shape))
            value.type = TensorType(known.dtype, shape)


def _is_open(value: onnx.ValueInfoProto) -> bool:
    """Whether an input has the axes of a cache, the last of open size."""
    dims = value.type.tensor_type.shape.dim
    return len(dims) == _RANK and not dims[_ROW].HasField("dim_value")


def _head_size(node: onnx.NodeProto, slot: int, widths: _Widths) -> int | None:
    """The last size of the cache at operand `slot`; None if unknown."""
    if node.op_type == "Concat" and _number(node, "axis") in (2, -2) and len(node.input) == 2:
        return widths.of(node.input[1 - slot])
    if node.op_type != "GroupQueryAttention" or slot not in (3, 4):
        return None
    heads, kv, width = _number(node, "num_heads"), _number(node, "kv_num_heads"), widths.of(node.input[0])
    count = heads if node.input[1] else heads + 2 * kv  # one operand holds queries, keys and values
    return width // count if width and count and width % count == 0 else None


def _number(node: onnx.NodeProto, name: str) -> int:
    return next((a.i for a in node.attribute if a.name == name), 0)


class _Widths:
    """The last sizes of values, as far as the constants of their producers determine them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self.tensors: Mapping[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.maker = {name: node for node in graph.node for name in node.output}

    def of(self, name: str) -> int | None:
        """The last size of a value."""
        for _ in range(_STEPS):
            node = self.maker.get(name)
            if node is None:
                return None
            if node.op_type == "MatMulNBits":
                return _number(node, "N") or None
            if node.op_type in ("MatMul", "Gemm"):
                dims = self.dims.get(node.input[1], ())
                is_turned = node.op_type == "Gemm" and _number(node, "transB")
                return dims[0 if is_turned else -1] if dims else None
            if node.op_type == "Reshape":
                return self._reshaped(node)
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [0])
            if node.op_type not in _KEPT or (node.op_type == "Transpose" and perm[-1] != len(perm) - 1):
                return None
            name = node.input[1] if node.input[0] in self.dims else node.input[0]
        return None

    def _reshaped(self, node: onnx.NodeProto) -> int | None:
        """The last size of a Reshape's result; for rows [batch, tokens, width] split into heads, width / heads."""
        target = self._constant(node.input[1])
        if not target or target[-1] > 0:
            return target[-1] if target else None
        heads = target[2] if len(target) == _RANK and target[:2] == [0, 0] else 0
        width = self.of(node.input[0]) if heads > 0 and target[-1] == -1 else None
        return width // heads if width and width % heads == 0 else None

    def _constant(self, name: str) -> list[int]:
        """The integers of a constant; [] where the file does not hold them."""
        tensor, node = self.tensors.get(name), self.maker.get(name)
        if tensor is None and node is not None and node.op_type == "Constant":
            tensor = next((a.t for a in node.attribute if a.name == "value"), None)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.dims) != 1:
            return []
        return [int(n) for n in onnx.numpy_helper.to_array(tensor).tolist()]
