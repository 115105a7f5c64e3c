"""Half-precision models: computed in float32 during quantization, as onnxruntime's CPU provider computes them.

Constants that stay float are stored in half precision again, with a Cast that runtimes fold when they load.
"""

from __future__ import annotations

import numpy as np

from ....calibration.masks import HUGE_HALF
from ....errors import Declined
from ....ir import RETURN, Array, Constant, DType, Graph, Model, Node, TensorType, Value, clone_model

HALF = (DType.FLOAT16, DType.BFLOAT16)
STORED = 256
"""Elements from which a constant that stays float is worth a Cast: it saves as many bytes as the node takes."""
LARGE_WEIGHT = 1 << 22
"""Elements from which a weight is converted at each read, which then takes a few milliseconds."""

Halves = dict[Constant, Constant]
"""Half-precision constants by the float32 constants that replaced them."""


def holds_half(model: Model) -> bool:
    """Whether the root graph computes in half precision, or stores in it."""
    values = (v for node in model.graph.walk() for v in (*node.inputs, *node.outputs) if v is not None)
    return any(_is_half(v) for v in values)


def _is_half(value: Value) -> bool:
    if value.constant is not None:
        return value.constant.dtype in HALF
    return isinstance(value.type, TensorType) and value.type.dtype in HALF


def widened(model: Model) -> tuple[Model, Halves]:
    """A copy that computes in float32 between unchanged input and result types, and its constants' originals.

    Declined where a function, a sequence or an unknown type may hold half precision.
    """
    if model.functions:
        raise Declined("left float: half precision in functions")
    copy = clone_model(model)
    results = [v.type for v in copy.graph.outputs]
    for graph in list(copy.graph.graphs()):
        _require_tensors(graph)
    halves: Halves = {}
    wide: dict[Value, Value] = {}
    for graph in list(copy.graph.graphs()):
        for node in (*graph.snapshot(), graph.return_node):
            _widen_constants(graph, node, wide, halves)
            _widen_results(graph, node)
    for value in copy.graph.inputs:
        if _is_half(value):
            _cast_behind(copy.graph, value)
    for graph in list(copy.graph.graphs()):
        if graph is not copy.graph:
            for value in graph.inputs:
                if _is_half(value):
                    assert isinstance(value.type, TensorType)
                    value.type = TensorType(DType.FLOAT, value.type.shape)
        _drop_idle_casts(graph)
    for slot, type in enumerate(results):
        if isinstance(type, TensorType) and type.dtype in HALF:
            _cast_result(copy.graph, slot, type)
    return copy, halves


def _require_tensors(graph: Graph) -> None:
    for node in graph.snapshot():
        for value in node.outputs:
            if not value.is_unused and value.type is not None and not isinstance(value.type, TensorType):
                raise Declined(f"left float: {node.op} holds sequences, perhaps of half precision")


def _widen_constants(graph: Graph, node: Node, wide: dict[Value, Value], halves: Halves) -> None:
    for slot, value in enumerate(node.inputs):
        if value is None or value.constant is None or value.constant.dtype not in HALF:
            continue
        if value not in wide:
            constant = _wide(value.constant)
            halves[constant] = value.constant
            wide[value] = Value(name=value.name, constant=constant)
        graph.set_input(node, slot, wide[value])


def _wide(constant: Constant) -> Constant:
    """A constant in float32; a large constant is converted lazily, so that its copy takes no memory until read."""
    if constant.size < LARGE_WEIGHT:
        return Constant.of(_floats(constant.array()))
    wide = Constant(DType.FLOAT, constant.shape, lambda: _floats(constant.array()))
    wide.half = constant if constant.dtype is DType.FLOAT16 else None
    return wide


def _floats(array: Array) -> Array:
    """The elements in float32; float16's mask values become float32's lowest number."""
    floats: Array = array.astype(np.float32)
    if array.dtype == np.float16:
        floats[floats <= -HUGE_HALF] = np.finfo(np.float32).min
    return floats


def _widen_results(graph: Graph, node: Node) -> None:
    if node.op == RETURN:
        return
    for name, number in list(node.attrs.items()):
        if name in ("to", "dtype") and number in HALF:
            graph.set_attr(node, name, int(DType.FLOAT))
        elif isinstance(number, Constant) and number.dtype in HALF:
            graph.set_attr(node, name, Constant.of(_floats(number.array())))
    for value in node.outputs:
        if _is_half(value):
            assert isinstance(value.type, TensorType)
            value.type = TensorType(DType.FLOAT, value.type.shape)


def _cast(value: Value, dtype: DType) -> Node:
    type = value.type
    node = Node("Cast", (value,), {"to": int(dtype)}, [TensorType(dtype, getattr(type, "shape", None))])
    node.made_by = "quantize"
    node.output.name = f"{value.name}_float32" if value.name and dtype is DType.FLOAT else ""
    return node


def _cast_behind(graph: Graph, value: Value) -> None:
    """Insert a Cast so that all readers of an input read float32."""
    cast = _cast(value, DType.FLOAT)
    graph.insert_before(next(iter(graph), graph.return_node), cast)
    graph.replace_uses(value, cast.output)
    graph.set_input(cast, 0, value)


def _cast_result(graph: Graph, slot: int, type: TensorType) -> None:
    """Cast an output back to its original type, under its name."""
    value = graph.outputs[slot]
    cast = _cast(value, type.dtype)
    cast.output.name, cast.output.type = value.name, type
    graph.insert_before(graph.return_node, cast)
    if value.constant is None and value.producer is not None:
        value.name = f"{value.name}_float32" if value.name else ""
    graph.set_input(graph.return_node, slot, cast.output)


def _drop_idle_casts(graph: Graph) -> None:
    """Drop Casts between half precision and float32, which no longer change a type."""
    for node in graph.snapshot():
        source = node.inputs[0] if node.op == "Cast" and node.attrs.get("to") == DType.FLOAT else None
        if source is None or node.made_by == "quantize":
            continue
        type = source.constant.type if source.constant is not None else source.type
        if isinstance(type, TensorType) and type.dtype is DType.FLOAT and not node.output.is_result:
            graph.replace_uses(node.output, source)
            graph.erase(node)


def narrowed(model: Model, halves: Halves) -> Model:
    """A copy with the constants that stayed float stored in half precision, and cast right before the first reader:
    sessions that fold nothing hold one of them at a time in float32."""
    model = clone_model(model)
    read: dict[Constant, Value] = {}
    graph = model.graph
    for anchor in graph.snapshot():
        for node in (anchor, *(node for nested in anchor.subgraphs for node in nested.walk())):
            for slot, value in enumerate(node.inputs):
                constant = None if value is None else value.constant
                if value is None or constant is None or constant not in halves or constant.size < STORED:
                    continue
                if constant not in read:
                    stored = Value(name=value.name, constant=halves[constant])
                    cast = _cast(stored, DType.FLOAT)
                    cast.output.type = constant.type
                    graph.insert_before(anchor, cast)
                    read[constant] = cast.output
                graph.set_input(node, slot, read[constant])
    return model
