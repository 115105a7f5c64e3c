"""Downgrades of operators to the forms of earlier opsets: the inverses of `passes/convert/opset_adapters.py`.

Source: ONNX's Changelog.md. A function edits the node in place, or raises Declined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..analysis.operands import shape_of
from ..errors import Declined
from ..ir import Constant, Graph, Node, TensorType, Value

Lower = Callable[[Graph, Node], None]


def _constant(node: Node, slot: int, what: str) -> Any:
    """The constant at an input, as a list or one number; None for a missing input. Declined for a computed one."""
    if node.input(slot) is None:
        return None
    constant = node.constant(slot)
    if constant is None:
        raise Declined(f"{what} of {node.op} is computed while the model runs, before it was an attribute")
    return constant.array().tolist()


def _keep(graph: Graph, node: Node, count: int) -> None:
    graph.set_inputs(node, node.inputs[:count])


def _to_attribute(name: str, slot: int) -> Lower:
    """A downgrade that moves integers from input `slot` to an attribute."""

    def lower(graph: Graph, node: Node) -> None:
        numbers = _constant(node, slot, name)
        if numbers == [] and not node.attrs.get("noop_with_empty_axes"):
            numbers = None
        if node.attrs.get("noop_with_empty_axes") and not numbers:
            raise Declined(f"{node.op} without {name} does nothing, before it reduced all")
        graph.set_attr(node, "noop_with_empty_axes", None)
        _keep(graph, node, slot)
        if numbers is not None:
            graph.set_attr(node, name, tuple(numbers) if isinstance(numbers, list) else (numbers,))

    return lower


def _top_k(graph: Graph, node: Node) -> None:
    k = _constant(node, 1, "k")
    _keep(graph, node, 1)
    graph.set_attr(node, "k", k[0] if isinstance(k, list) else k)


def _slice(graph: Graph, node: Node) -> None:
    starts, ends, axes, steps = (
        _constant(node, slot, name) for slot, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps"))
    )
    if steps is not None and any(step != 1 for step in steps):
        raise Declined("Slice had no steps")
    _keep(graph, node, 1)
    for name, numbers in (("starts", starts), ("ends", ends), ("axes", axes)):
        if numbers is not None:
            graph.set_attr(node, name, tuple(numbers))


def _pad(graph: Graph, node: Node) -> None:
    pads, value = _constant(node, 1, "pads"), _constant(node, 2, "the value")
    if len(node.inputs) > 3:
        raise Declined("Pad had no axes")
    _keep(graph, node, 1)
    graph.set_attr(node, "pads", tuple(pads))
    if value:
        graph.set_attr(node, "value", float(value[0] if isinstance(value, list) else value))


def _clip(graph: Graph, node: Node) -> None:
    limits = [_constant(node, slot, name) for slot, name in ((1, "min"), (2, "max"))]
    _keep(graph, node, 1)
    for name, limit in zip(("min", "max"), limits):
        if limit is not None:
            graph.set_attr(node, name, float(limit[0] if isinstance(limit, list) else limit))


def _dropout(graph: Graph, node: Node) -> None:
    """Dropout outside of training does nothing, whatever its ratio."""
    training = _constant(node, 2, "training_mode")
    if training or (len(node.outputs) > 1 and not node.outputs[1].is_unused):
        raise Declined("Dropout trains, or its mask is used")
    _keep(graph, node, 1)
    graph.set_attr(node, "seed", None)


def _softmax(graph: Graph, node: Node) -> None:
    """Before opset 13 the axes from `axis` on are one."""
    shape, axis = shape_of(node.inputs[0]), int(node.attrs.get("axis", -1))
    if shape is None:
        if axis != -1:
            raise Declined(f"the rank of what {node.op} reads is not known")
        graph.set_attr(node, "axis", -1)
        return
    axis %= len(shape)
    if any(size != 1 for size in shape[axis + 1 :]):
        raise Declined(f"{node.op} is over axis {axis} of {len(shape)}, before over all axes from that one on")
    graph.set_attr(node, "axis", axis)


def _split_count(graph: Graph, node: Node) -> None:
    if node.input(1) is None:
        shape = shape_of(node.inputs[0])
        size = None if shape is None else shape[int(node.attrs.get("axis", 0))]
        if not isinstance(size, int) or size % len(node.outputs):
            raise Declined("Split into parts that are not equal had to name their sizes")
    graph.set_attr(node, "num_outputs", None)


def _resize(graph: Graph, node: Node) -> None:
    """Resize in its only earlier mode: asymmetric, rounding down, by constant scales of 1 or more; else Declined."""
    scales = node.constant(2)
    mode = str(node.attrs.get("mode", "nearest"))
    is_plain = str(node.attrs.get("coordinate_transformation_mode", "half_pixel")) == "asymmetric"
    rounds_down = mode != "nearest" or str(node.attrs.get("nearest_mode", "round_prefer_floor")) == "floor"
    if node.input(3) is not None or scales is None or (scales.array() < 1).any() or not (is_plain and rounds_down):
        raise Declined("Resize took other elements before")
    if mode not in ("nearest", "linear"):
        raise Declined(f"Resize had no mode {mode}")
    for name in set(node.attrs) - {"mode"}:
        graph.set_attr(node, name, None)
    graph.set_inputs(node, (node.inputs[0], node.inputs[2]))


def _resize_inputs(graph: Graph, node: Node) -> None:
    """Missing inputs become empty tensors."""
    empty = [v if v is not None else Value(constant=Constant.of(np.zeros(0, np.float32))) for v in node.inputs[1:]]
    graph.set_inputs(node, (node.inputs[0], *empty))


def _grid_sample(graph: Graph, node: Node) -> None:
    mode = str(node.attrs.get("mode", "linear"))
    graph.set_attr(node, "mode", {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode))


def _roi_align(graph: Graph, node: Node) -> None:
    if str(node.attrs.get("coordinate_transformation_mode", "half_pixel")) != "output_half_pixel":
        raise Declined("RoiAlign took other coordinates before")
    graph.set_attr(node, "coordinate_transformation_mode", None)


def _no_ceiling(graph: Graph, node: Node) -> None:
    if node.attrs.get("ceil_mode"):
        raise Declined("how AveragePool counts beyond the end was another")


def _gemm(graph: Graph, node: Node) -> None:
    """A B = A B + 0"""
    type = None if node.inputs[0] is None else node.inputs[0].type
    if node.input(2) is None:
        if not isinstance(type, TensorType):
            raise Declined("the type of what Gemm reads is not known")
        zero = Value(constant=Constant.of(np.zeros(1, type.dtype.numpy)))
        graph.set_inputs(node, (*node.inputs[:2], zero))


def _reshape(graph: Graph, node: Node) -> None:
    """Drop `allowzero`: before, a zero in the target always copied a size."""
    target = node.constant(1)
    if node.attrs.get("allowzero") and target is None:
        raise Declined("Reshape has a computed target, in which a zero would be the size of its input")
    if node.attrs.get("allowzero") and target is not None and (target.array() == 0).any():
        raise Declined("Reshape took a zero in its target for the size of its input")
    graph.set_attr(node, "allowzero", None)


def _same(graph: Graph, node: Node) -> None:
    """No change: callers observe no difference."""


_REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)
EARLIER: dict[tuple[str, int], Lower] = {
    **{(op, 18): _to_attribute("axes", 1) for op in _REDUCTIONS},
    **{(op, 13): _to_attribute("axes", 1) for op in ("ReduceSum", "Squeeze", "Unsqueeze")},
    **{(op, 13): _softmax for op in ("Softmax", "LogSoftmax", "Hardmax")},
    ("Split", 13): _to_attribute("split", 1),
    ("Split", 18): _split_count,
    ("TopK", 10): _top_k,
    ("Slice", 10): _slice,
    ("Pad", 11): _pad,
    ("Clip", 11): _clip,
    ("Dropout", 12): _dropout,
    ("BatchNormalization", 9): _same,
    ("BatchNormalization", 14): _same,
    ("Gemm", 11): _gemm,
    ("Reshape", 14): _reshape,
    ("Resize", 11): _resize,
    ("Resize", 13): _resize_inputs,
    ("RoiAlign", 16): _roi_align,
    ("GridSample", 20): _grid_sample,
    ("AveragePool", 19): _no_ceiling,
}
"""For each operator and the opset in which its form changed, the downgrade to the earlier form."""
