"""One layer at a time: activations quantized at run time, or weights alone stored as integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir import Array, Constant, DType, Graph, Node, Value
from ....onnx_io.parts.tensors import packed_constant
from ....ops import update_types
from ..candidates.assignment import Assignment
from ..candidates.units import Unit
from ..numerics.grids import Codes
from .at_load import converts_at_load
from .constants import constant, dequantized, insert_typed, stored_codes
from .mapped_clone import MappedClone
from .packed import multiply_packed


def store_weights(clone: MappedClone, unit: Unit, codes: Codes, assignment: Assignment) -> None:
    """y = W x with W = DequantizeLinear(codes), or the same numbers computed as the model loads.

    Codes of 4 bits are packed, two a byte; for target "onnxruntime" products with codes in blocks become its
    MatMulNBits.
    """
    linear, graph, store = unit.layer, clone.model.graph, assignment.store
    node, name = clone.nodes[unit.node], _weight_name(unit)
    if codes.block is not None and assignment.target == "onnxruntime":
        _set_bias(clone, unit, codes)
        multiply_packed(clone.model, node, codes, name, store)
        return
    dtype, axis, scale, zero = assignment.options.weight_dtype, linear.axis, codes.scale.reshape(-1), None
    stored: Array | Constant = linear.stored(codes.rows)
    if codes.bits == 4:
        dtype, nibbles = DType.INT4, store.nibbles(codes, linear)
        if nibbles is None:
            stored = store.form(codes, "int4", lambda: linear.stored(codes.rows).astype(DType.INT4.numpy))
        else:
            stored = packed_constant(nibbles, dtype, stored.shape)
    if codes.block is not None:
        axis = 1 - axis
        scale = store.form(codes, "scale", lambda: linear.stored(codes.scale))
        zero = None if codes.zero is None else linear.stored(codes.zero)
    read = dequantized(
        graph, node, stored, scale, axis, name, block=codes.block, zero=zero, dtype=dtype,
        at_load=converts_at_load(unit, assignment),
    )  # fmt: skip
    graph.set_input(node, 1, read)
    _set_bias(clone, unit, codes)


def quantize_dynamically(clone: MappedClone, unit: Unit, codes: Codes, dtype: DType | None = None) -> None:
    """W x = (s_x s_w) MatMulInteger(q(x), codes) with q = DynamicQuantizeLinear, shared by all readers of x."""
    assert codes.bits == 8
    linear, graph = unit.layer, clone.model.graph
    node, name = clone.nodes[unit.node], _weight_name(unit)
    x = node.inputs[0]
    assert x is not None
    quantized = _dynamic_input(graph, x, node)
    stored, zero_point = stored_codes(linear.stored(codes.rows), dtype)
    matrix = stored.T if linear.axis == 0 else stored
    emitted: list[Node] = []

    def emit(op: str, *inputs: Value, **attrs: Any) -> Value:
        new = Node(op, inputs, attrs, name=f"{node.name}_{len(emitted)}_{op.lower()}" if node.name else "")
        emitted.append(new)
        return insert_typed(graph, node, new, f"{node.output.name}_{op.lower()}")

    values, x_scale, x_zero = quantized.outputs
    weights = constant(np.ascontiguousarray(matrix), name, "codes")
    zeros = [constant(np.array(zero_point, stored.dtype), name, "zero")] if zero_point else []
    product = emit("MatMulInteger", values, weights, x_zero, *zeros)
    scales = emit("Mul", x_scale, constant(codes.scale.reshape(-1), name, "scale"))
    result = emit("Mul", emit("Cast", product, to=int(DType.FLOAT)), scales)
    if linear.addition is None and codes.bias is not None and linear.takes_bias:
        result = emit("Add", result, constant(codes.bias, name, "bias"))
    else:
        _set_bias(clone, unit, codes)
    wanted = node.output.name
    graph.replace_uses(node.output, result)
    graph.erase(node)
    result.name = wanted


def _dynamic_input(graph: Graph, x: Value, node: Node) -> Node:
    for user in x.users:
        if user.op == "DynamicQuantizeLinear" and user.graph is graph:
            return user
    new = Node("DynamicQuantizeLinear", (x,), None, 3, name=f"{node.name}_dynamic" if node.name else "")
    new.made_by = "quantize"
    for value, part in zip(new.outputs, ("codes", "scale", "zero")):
        value.name = f"{x.name}_{part}"
    if x.producer is not None:
        graph.insert_after(x.producer, new)
    else:
        graph.insert_before(next(iter(graph)), new)
    update_types(new)
    return new


def _set_bias(clone: MappedClone, unit: Unit, codes: Codes) -> None:
    linear, graph = unit.layer, clone.model.graph
    if codes.bias is None or not linear.takes_bias:
        return
    bias = constant(codes.bias, _weight_name(unit), "bias")
    if linear.addition is not None:
        node, slot = linear.addition
        graph.set_input(clone.nodes[node], slot, bias)
        return
    node = clone.nodes[unit.node]
    graph.set_inputs(node, (*node.inputs[:2], bias))


def _weight_name(unit: Unit) -> str:
    value = unit.node.inputs[1]
    return "" if value is None else value.name
