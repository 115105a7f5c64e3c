"""A layer's weight as floats, however it is stored, and how another one is put in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...analysis.channels import WeightedLayer
from ...analysis.evaluation import evaluate
from ...ir import Array, Constant, DType, Node, TensorType, Value
from ...ops import attr

_CODES = (DType.INT8, DType.UINT8)


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A weight that is (codes − zero) scale, by DequantizeLinear or by Cast and Mul: the node that reads the codes, the
    node and slot of the scale, and the zero point as it broadcasts against the codes."""

    reader: Node
    scaler: Node
    slot: int
    zero: Array
    along: tuple[int, ...]  # the shape in which the scale broadcasts

    @property
    def codes(self) -> Constant:
        """The codes that are stored."""
        constant = self.reader.constant(0)
        assert constant is not None
        return constant

    @property
    def scale(self) -> Array:
        """The scale that is stored, as it broadcasts."""
        constant = self.scaler.constant(self.slot)
        assert constant is not None
        return constant.array().astype(np.float64).reshape(self.along)


def shape_of(layer: WeightedLayer) -> tuple[int, ...]:
    """The sizes of a layer's weight; () where they are not known."""
    type = layer.weight.type
    if not isinstance(type, TensorType) or type.shape is None or not all(isinstance(d, int) for d in type.shape):
        return ()
    return tuple(d for d in type.shape if isinstance(d, int))


def floats_of(layer: WeightedLayer) -> Array | None:
    """The weight as floats (for layers of integers, up to a factor); None where it cannot be computed."""
    made = _computed(layer.weight)
    if made is None or layer.node.op.removeprefix("com.microsoft::") not in _OF_INTEGERS:
        return made
    scale, zero = (layer.node.constant(slot) if slot else None for slot in _OF_INTEGERS[_plain(layer.node)])
    made = made.astype(np.float32)
    for constant, combine in ((zero, np.subtract), (scale, np.multiply)):
        if constant is not None:
            shape = [1] * made.ndim
            shape[layer.out_axis] = -1
            made = combine(made, constant.array().astype(np.float32).reshape(shape if constant.size > 1 else ()))
    return made


_OF_INTEGERS = {
    "ConvInteger": (0, 3), "MatMulInteger": (0, 3), "QLinearConv": (4, 5), "QLinearMatMul": (4, 5), "QGemm": (4, 5),
    "MatMulIntegerToFloat": (3, 5), "DynamicQuantizeMatMul": (2, 3),
}  # fmt: skip
"""Where layers of integers have the scale and the zero point of their weight; 0 for none."""


def _plain(node: Node) -> str:
    return node.op.removeprefix("com.microsoft::")


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


def coded(layer: WeightedLayer) -> Coded | None:
    """How a weight is made of codes, where new codes can be put in their place: stored once, for this layer alone."""
    last = layer.weight.producer
    if last is None or not layer.weight.has_one_use or last.graph is not layer.node.graph:
        return None
    if last.op == "DequantizeLinear":
        return _dequantized(last)
    return _scaled(last) if last.op == "Mul" else None


def _dequantized(node: Node) -> Coded | None:
    codes, scale, zero = (node.constant(slot) for slot in (0, 1, 2))
    if codes is None or scale is None or (node.input(2) is not None and zero is None) or attr(node, "block_size", 0):
        return None
    if not _is_free(node, 0, codes) or scale.dtype is not DType.FLOAT:
        return None
    along: Sequence[int] = ()
    if scale.size > 1:
        shape = [1] * len(codes.shape)
        shape[int(attr(node, "axis", 1))] = scale.size
        along = shape
    offset = np.zeros(()) if zero is None else zero.array().astype(np.float64).reshape(along if zero.size > 1 else ())
    return Coded(node, node, 1, offset, tuple(along))


def _scaled(node: Node) -> Coded | None:
    for slot in (0, 1):
        cast, scale = node.inputs[1 - slot], node.constant(slot)
        producer = None if cast is None else cast.producer
        if producer is None or producer.op != "Cast" or scale is None or scale.dtype is not DType.FLOAT:
            continue
        codes = producer.constant(0)
        if codes is not None and producer.output.has_one_use and _is_free(producer, 0, codes):
            return Coded(producer, node, slot, np.zeros(()), scale.shape)
    return None


def _is_free(node: Node, slot: int, codes: Constant) -> bool:
    value = node.inputs[slot]
    return value is not None and value.has_one_use and codes.dtype in _CODES


def store(layer: WeightedLayer, weight: Array) -> Array:
    """Put `weight` in place of a layer's, in place; returns what was stored. Codes are rounded to the nearest, on a
    scale that is as large as they need."""
    node, constant = layer.node, layer.weight.constant
    graph = node.graph
    assert graph is not None
    if constant is not None:
        made = Constant.of(weight.astype(constant.array().dtype), constant.dtype)
        graph.set_input(node, layer.weight_slot, Value(name=layer.weight.name, constant=made))
        return made.array()
    form = coded(layer)
    assert form is not None
    codes, scale = rounded(form, weight)
    _put(form.reader, 0, codes.astype(form.codes.array().dtype))
    _put(form.scaler, form.slot, scale)
    return (codes - form.zero) * scale.reshape(form.along)


def rounded(form: Coded, weight: Array) -> tuple[Array, Array]:
    """The codes nearest to a weight, and the scale, in the shape it is stored in: what it was, or larger."""
    limits = np.iinfo(form.codes.array().dtype)
    scale, stored = form.scale, form.scaler.constant(form.slot)
    assert stored is not None
    steps = weight / scale
    room = np.where(steps > 0, limits.max - form.zero, form.zero - limits.min)
    over = np.abs(steps) / np.maximum(room, 1)
    if form.along == ():
        need = over.max(initial=0.0)
    else:
        padded = (1,) * (over.ndim - len(form.along)) + form.along
        need = over.max(axis=tuple(k for k, size in enumerate(padded) if size == 1), keepdims=True, initial=0.0)
        need = need.reshape(form.along)
    scale = (scale * np.maximum(need, 1.0)).astype(np.float32)
    codes = np.clip(np.rint(weight / scale.astype(np.float64) + form.zero), limits.min, limits.max)
    return codes, scale.reshape(stored.shape)


def _put(node: Node, slot: int, array: Array) -> None:
    old = node.inputs[slot]
    assert old is not None and old.constant is not None and node.graph is not None
    node.graph.set_input(node, slot, Value(name=old.name, constant=Constant.of(array, old.constant.dtype)))
