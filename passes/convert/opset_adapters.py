"""Adapters for changes of operators beyond added types and options, each for nodes of the old form.

Source: ONNX's Changelog.md. An adapter edits the node in place, or replaces it by other nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...analysis.operands import axis_of, shape_of
from ...errors import Declined
from ...ir import Array, Constant, DType, Graph, Node, Opaque, TensorType, Value

Adapter = Callable[[Graph, Node], Node]


def _take(graph: Graph, node: Node, name: str) -> Any:
    """Remove an attribute from the node; returns its value."""
    value = node.attrs.get(name)
    if isinstance(value, Opaque):
        raise Declined(f"attribute {name} is given by a function's caller")
    if value is not None:
        graph.set_attr(node, name, None)
    return value


def _give(graph: Graph, node: Node, slot: int, array: Array) -> None:
    """Set a constant as input `slot`; missing inputs before it stay missing."""
    inputs = (*node.inputs, *(None,) * (slot - len(node.inputs)))
    new = Value(constant=Constant.of(array), name=f"{node.output.name}_{slot}" if node.output.name else "")
    graph.set_inputs(node, (*inputs[:slot], new, *inputs[slot + 1 :]))


def _dtype(node: Node) -> np.dtype[Any]:
    type = None if node.inputs[0] is None else node.inputs[0].type
    if not isinstance(type, TensorType) or type.dtype is DType.UNDEFINED:
        raise Declined("the type of its input is not known")
    return type.dtype.numpy


def _to_input(name: str, slot: int) -> Adapter:
    """An adapter that moves integers from an attribute to an input."""

    def adapt(graph: Graph, node: Node) -> Node:
        numbers = _take(graph, node, name)
        if numbers is not None and numbers != ():
            _give(graph, node, slot, np.atleast_1d(np.array(numbers, np.int64)))
        return node

    return adapt


def _set(name: str, value: Any) -> Adapter:
    """An adapter that writes out an option whose default changed, or that was formerly the only choice."""

    def adapt(graph: Graph, node: Node) -> Node:
        if name not in node.attrs:
            graph.set_attr(node, name, value)
        return node

    return adapt


def _drop_only(name: str, allowed: Any, why: str) -> Adapter:
    """An adapter that removes an option that the new form lacks; Declined, with reason `why`, unless it was
    `allowed`."""

    def adapt(graph: Graph, node: Node) -> Node:
        if node.attrs.get(name, allowed) != allowed:
            raise Declined(why)
        _take(graph, node, name)
        return node

    return adapt


def _only_first_output(graph: Graph, node: Node) -> Node:
    if any(not out.is_unused for out in node.outputs[1:]):
        raise Declined("an output other than the first is used")
    if len(node.outputs) == 1:
        return node
    return _replace(graph, node, Node(node.op, node.inputs, node.attrs, [node.output.type], name=node.name))


def _replace(graph: Graph, node: Node, new: Node) -> Node:
    new.origins, new.made_by = node.origins, node.made_by or "convert-opset"
    new.doc, new.metadata = node.doc, node.metadata
    graph.insert_before(node, new)
    new.output.name = node.output.name
    graph.replace_uses(node.output, new.output)
    graph.erase(node)
    return new


def _dropout(graph: Graph, node: Node) -> Node:
    """Dropout outside of training does nothing, whatever its ratio."""
    if len(node.outputs) > 1 and not node.outputs[1].is_unused:
        raise Declined("the mask of Dropout is used")
    _take(graph, node, "ratio")
    return node


def _clip(graph: Graph, node: Node) -> Node:
    """Missing limits are the largest finite numbers, not infinity."""
    dtype = _dtype(node)
    if dtype.kind != "f" or dtype.itemsize < 4:
        raise Declined("the default limits of Clip in half precision are not specified")
    widest = float(np.finfo(np.float32).max)
    low, high = _take(graph, node, "min"), _take(graph, node, "max")
    _give(graph, node, 1, np.array(-widest if low is None else low, dtype))
    _give(graph, node, 2, np.array(widest if high is None else high, dtype))
    return node


def _pad(graph: Graph, node: Node) -> Node:
    pads, value = _take(graph, node, "pads"), _take(graph, node, "value")
    _give(graph, node, 1, np.array(pads, np.int64))
    if value:
        _give(graph, node, 2, np.array(value, _dtype(node)))
    return node


def _slice(graph: Graph, node: Node) -> Node:
    starts, ends, axes = (_take(graph, node, name) for name in ("starts", "ends", "axes"))
    _give(graph, node, 1, np.array(starts, np.int64))
    _give(graph, node, 2, np.array(ends, np.int64))
    if axes is not None:
        _give(graph, node, 3, np.array(axes, np.int64))
    return node


def _softmax(graph: Graph, node: Node) -> Node:
    """Before opset 13 the axes from `axis` on are one; from then on `axis` is the only one."""
    shape = shape_of(node.inputs[0])
    given = int(node.attrs.get("axis", 1))
    axis = axis_of(given, None if shape is None else len(shape))
    if given == -1 or (shape is not None and axis is not None and all(size == 1 for size in shape[axis + 1 :])):
        graph.set_attr(node, "axis", given if axis is None else axis)
        return node
    x = node.inputs[0]
    kept = Node("Shape", (x,), None, 1, name=node.name)
    flat = Node("Flatten", (x,), {"axis": given if axis is None else axis}, 1, name=node.name)
    rows = Node(node.op, (flat.output,), {"axis": -1}, 1, name=node.name)
    for new in (kept, flat, rows):
        new.origins, new.made_by = node.origins, "convert-opset"
        graph.insert_before(node, new)
    last = Node("Reshape", (rows.output, kept.output), None, [node.output.type], name=node.name)
    return _replace(graph, node, last)


def _split_count(graph: Graph, node: Node) -> Node:
    if node.input(1) is None:
        graph.set_attr(node, "num_outputs", len(node.outputs))
    return node


def _upsample(graph: Graph, node: Node) -> Node:
    """Upsample of opset 9 is Resize of opset 10."""
    return _replace(graph, node, Node("Resize", node.inputs, node.attrs, [node.output.type], name=node.name))


def _resize(graph: Graph, node: Node) -> Node:
    """Resize of opset 10 is that of 11 with asymmetric coordinates and rounding down, if it enlarges."""
    scales = node.constant(1)
    if str(node.attrs.get("mode", "nearest")) == "nearest" and (scales is None or (scales.array() < 1).any()):
        raise Declined("Resize takes other elements from opset 11 on where it shrinks")
    empty = Value(constant=Constant.of(np.zeros(0, np.float32)))
    graph.set_inputs(node, (node.inputs[0], empty, node.inputs[1]))
    graph.set_attr(node, "coordinate_transformation_mode", "asymmetric")
    graph.set_attr(node, "nearest_mode", "floor")
    return node


def _scatter(graph: Graph, node: Node) -> Node:
    return _replace(graph, node, Node("ScatterElements", node.inputs, node.attrs, [node.output.type], name=node.name))


def _grid_sample(graph: Graph, node: Node) -> Node:
    mode = str(node.attrs.get("mode", "bilinear"))
    graph.set_attr(node, "mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))
    return node


def _dft(graph: Graph, node: Node) -> Node:
    axis = _take(graph, node, "axis")
    _give(graph, node, 2, np.array(1 if axis is None else axis, np.int64))
    return node


_REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)
ADAPTERS: dict[tuple[str, int], Adapter] = {
    **{(op, 18): _to_input("axes", 1) for op in _REDUCTIONS},
    **{(op, 13): _softmax for op in ("Softmax", "LogSoftmax", "Hardmax")},
    **{(op, 13): _to_input("axes", 1) for op in ("ReduceSum", "Squeeze", "Unsqueeze")},
    ("Split", 13): _to_input("split", 1),
    ("Split", 18): _split_count,
    ("TopK", 10): _to_input("k", 1),
    ("Slice", 10): _slice,
    ("Pad", 11): _pad,
    ("Clip", 11): _clip,
    ("Dropout", 12): _dropout,
    ("BatchNormalization", 9): _drop_only("spatial", 1, "BatchNormalization has statistics for each position"),
    ("BatchNormalization", 14): _only_first_output,
    ("Upsample", 10): _upsample,
    ("Resize", 11): _resize,
    ("Scatter", 11): _scatter,
    ("RoiAlign", 16): _set("coordinate_transformation_mode", "output_half_pixel"),
    ("GridSample", 20): _grid_sample,
    ("DFT", 20): _dft,
    ("AveragePool", 19): _drop_only("ceil_mode", 0, "how AveragePool counts beyond the end changed in opset 19"),
}
"""The adapter for each operator and the opset in which its form changed."""

CHANGED = frozenset((("GroupNormalization", 21), ("Scan", 9), ("Upsample", 9)))
"""Changes of meaning that have no adapter."""
