"""A layer's weight as floats, whether it is stored as floats or as int8 codes, and its replacement by another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...analysis.channels import WeightedLayer
from ...analysis.evaluation import evaluate
from ...ir import Array, Constant, DType, Node, TensorType, Value
from ...ops import attr

_CODES = (DType.INT8, DType.UINT8)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """A weight (codes − zero) · scale, by DequantizeLinear or by Cast and Mul.

    reader: the node that reads the codes. scaler, slot: the node and slot of the scale. zero: the zero point,
    broadcastable to the codes. scale_shape: the broadcastable shape of the scale.
    """

    reader: Node
    scaler: Node
    slot: int
    zero: Array
    scale_shape: tuple[int, ...]

    @property
    def codes(self) -> Constant:
        """The stored codes."""
        constant = self.reader.constant(0)
        assert constant is not None
        return constant

    @property
    def scale(self) -> Array:
        """f64: the scale, broadcastable to the codes."""
        constant = self.scaler.constant(self.slot)
        assert constant is not None
        return constant.array().astype(np.float64).reshape(self.scale_shape)


def shape_of(layer: WeightedLayer) -> tuple[int, ...]:
    """The sizes of a layer's weight; () where they are unknown."""
    type = layer.weight.type
    if not isinstance(type, TensorType) or type.shape is None or not all(isinstance(d, int) for d in type.shape):
        return ()
    return tuple(d for d in type.shape if isinstance(d, int))


def floats_of(layer: WeightedLayer) -> Array | None:
    """The weight as floats (for layers of integers, up to a factor); None where it cannot be computed."""
    weight = _computed(layer.weight)
    parameters = _INTEGER_LAYERS.get(layer.node.op.removeprefix("com.microsoft::"))
    if weight is None or parameters is None:
        return weight
    scale, zero = (layer.node.constant(slot) if slot else None for slot in parameters)
    floats: Array = weight.astype(np.float32)
    for constant, combine in ((zero, np.subtract), (scale, np.multiply)):
        if constant is not None:
            shape = [1] * floats.ndim
            shape[layer.out_axis] = -1
            floats = combine(floats, constant.array().astype(np.float32).reshape(shape if constant.size > 1 else ()))
    return floats


_INTEGER_LAYERS = {
    "ConvInteger": (0, 3), "MatMulInteger": (0, 3), "QLinearConv": (4, 5), "QLinearMatMul": (4, 5), "QGemm": (4, 5),
    "MatMulIntegerToFloat": (3, 5), "DynamicQuantizeMatMul": (2, 3),
}  # fmt: skip
"""Layers of integers: the input slots of their weight's scale and zero point; 0 for none."""


def _computed(value: Value) -> Array | None:
    if value.constant is not None:
        return value.constant.array()
    nodes: dict[Node, None] = {}
    queue = [value]
    while queue:
        producer = queue.pop().producer
        if producer is not None and producer not in nodes:
            nodes[producer] = None
            queue += [v for v in producer.inputs if v is not None and v.constant is None]
    graph = value.producer.graph if value.producer is not None else None
    if graph is None or any(node.graph is not graph for node in nodes):
        return None
    return evaluate(graph, [(list(nodes)[::-1], [value])], {}).get(value)


def quantized_weight(layer: WeightedLayer) -> QuantizedWeight | None:
    """The codes and scale of a weight, if constants of this layer alone and thus replaceable; else None."""
    last = layer.weight.producer
    if last is None or not layer.weight.has_one_use or last.graph is not layer.node.graph:
        return None
    if last.op == "DequantizeLinear":
        return _dequantized(last)
    return _cast_and_scaled(last) if last.op == "Mul" else None


def _dequantized(node: Node) -> QuantizedWeight | None:
    codes, scale, zero = (node.constant(slot) for slot in (0, 1, 2))
    if codes is None or scale is None or (node.input(2) is not None and zero is None) or attr(node, "block_size", 0):
        return None
    if not _is_replaceable(node, 0, codes) or scale.dtype is not DType.FLOAT:
        return None
    scale_shape = [1] * len(codes.shape) if scale.size > 1 else []
    if scale.size > 1:
        scale_shape[int(attr(node, "axis", 1))] = scale.size
    offset = np.zeros(())
    if zero is not None:
        offset = zero.array().astype(np.float64).reshape(scale_shape if zero.size > 1 else ())
    return QuantizedWeight(node, node, 1, offset, tuple(scale_shape))


def _cast_and_scaled(node: Node) -> QuantizedWeight | None:
    for slot in (0, 1):
        cast, scale = node.inputs[1 - slot], node.constant(slot)
        producer = None if cast is None else cast.producer
        if producer is None or producer.op != "Cast" or scale is None or scale.dtype is not DType.FLOAT:
            continue
        codes = producer.constant(0)
        if codes is not None and producer.output.has_one_use and _is_replaceable(producer, 0, codes):
            return QuantizedWeight(producer, node, slot, np.zeros(()), scale.shape)
    return None


def _is_replaceable(node: Node, slot: int, codes: Constant) -> bool:
    value = node.inputs[slot]
    return value is not None and value.has_one_use and codes.dtype in _CODES


def store_weight(layer: WeightedLayer, weight: Array) -> None:
    """Replace a layer's weight, in place; a quantized weight is rounded to the nearest codes."""
    node, constant = layer.node, layer.weight.constant
    graph = node.graph
    assert graph is not None
    if constant is not None:
        replacement = Constant.of(weight.astype(constant.array().dtype), constant.dtype)
        graph.set_input(node, layer.weight_slot, Value(name=layer.weight.name, constant=replacement))
        return
    quantized = quantized_weight(layer)
    assert quantized is not None
    codes, scale = round_to_codes(quantized, weight)
    _replace(quantized.reader, 0, codes.astype(quantized.codes.array().dtype))
    _replace(quantized.scaler, quantized.slot, scale)


def dequantize(quantized: QuantizedWeight, codes: Array, scale: Array) -> Array:
    """(codes − zero) · scale, for other codes and another scale."""
    return (codes - quantized.zero) * scale.reshape(quantized.scale_shape)


def round_to_codes(quantized: QuantizedWeight, weight: Array) -> tuple[Array, Array]:
    """The codes nearest to a weight, and the scale to store: the present one, or larger where codes would overflow."""
    limits = np.iinfo(quantized.codes.array().dtype)
    scale, stored = quantized.scale, quantized.scaler.constant(quantized.slot)
    assert stored is not None
    steps = weight / scale
    room = np.where(steps > 0, limits.max - quantized.zero, quantized.zero - limits.min)
    overflow = np.abs(steps) / np.maximum(room, 1)
    if quantized.scale_shape == ():
        need = overflow.max(initial=0.0)
    else:
        padded = (1,) * (overflow.ndim - len(quantized.scale_shape)) + quantized.scale_shape
        shared = tuple(k for k, size in enumerate(padded) if size == 1)
        need = overflow.max(axis=shared, keepdims=True, initial=0.0).reshape(quantized.scale_shape)
    scale = (scale * np.maximum(need, 1.0)).astype(np.float32)
    codes = np.clip(np.rint(weight / scale.astype(np.float64) + quantized.zero), limits.min, limits.max)
    return codes, scale.reshape(stored.shape)


def _replace(node: Node, slot: int, array: Array) -> None:
    old = node.inputs[slot]
    assert old is not None and old.constant is not None and node.graph is not None
    node.graph.set_input(node, slot, Value(name=old.name, constant=Constant.of(array, old.constant.dtype)))
