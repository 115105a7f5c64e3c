"""Operators that return an operand unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...analysis.operands import SMALL, TO_END, integers, is_replaceable, shape_of, small_array, tensor_of
from ...ir import Constant, Dim, DType, Graph, Node, Value
from ...ops import attr, is_deterministic, reshaped, same_sizes, version_for
from ...pipeline.passes import graph_pass
from ...rewrite import Context
from .zeros import sign_of_zero_tells


@graph_pass("drop-identities")
def drop_identities(graph: Graph, context: Context) -> int:
    """f(x) = x, for operators that return an operand unchanged whatever its value."""
    changes = 0
    for node in graph.walk():
        operand = same_as(node)
        if operand is None or not is_replaceable(node.output, operand):
            continue
        owner = node.graph
        if owner is not None and context.commit("drop-" + node.op_type.lower(), node):
            owner.replace_uses(node.output, operand)
            owner.erase(node)
            changes += 1
    return changes


def same_as(node: Node) -> Value | None:
    """The operand that the node's first output always equals; None if there is none or another output is used."""
    slot_of = _TABLE.get(node.op)
    if slot_of is None or any(not out.is_unused for out in node.outputs[1:]):
        return None
    slot = slot_of(node)
    return None if slot is None else node.input(slot)


def _first(holds: Callable[[Node], bool]) -> Callable[[Node], int | None]:
    return lambda node: 0 if node.inputs and node.inputs[0] is not None and holds(node) else None


def _neutral(number: float, *, either: bool) -> Callable[[Node], int | None]:
    """x op c = x, where c is all `number` and does not broadcast x."""

    def slot(node: Node) -> int | None:
        for i in (0, 1) if either else (0,):
            if len(node.inputs) == 2 and _is_filled(node.constant(1 - i), number) and _keeps_shape(node, i):
                return None if number == 0 and _turns_zeros(node, 1 - i) and sign_of_zero_tells(node.output) else i
        return None

    return slot


def _is_filled(constant: Constant | None, number: float) -> bool:
    if constant is None or constant.size > SMALL or constant.dtype is DType.STRING or not constant.size:
        return False
    return bool((constant.array() == constant.dtype.numpy.type(number)).all())


def _turns_zeros(node: Node, slot: int) -> bool:
    """x + 0 and x - (-0) turn -0 into +0, x + (-0) and x - 0 do not."""
    constant = node.constant(slot)
    if constant is None or not constant.dtype.is_float:
        return False
    return bool((np.signbit(constant.array()) == (node.op == "Sub")).any())


def _keeps_shape(node: Node, slot: int) -> bool:
    """Broadcasting operand `slot` with the constant beside it gives the operand's own type."""
    constant, type = node.constant(1 - slot), tensor_of(node.inputs[slot])
    if constant is None or type is None or type.shape is None or len(constant.shape) > len(type.shape):
        return False
    dims = type.shape[len(type.shape) - len(constant.shape) :]
    return all(c == 1 or c == d for c, d in zip(constant.shape, dims))


def _same_dtype(node: Node) -> bool:
    before = tensor_of(node.inputs[0])
    if node.op == "CastLike":
        like = tensor_of(node.input(1))
        return before is not None and like is not None and before.dtype == like.dtype
    return before is not None and int(before.dtype) == node.attrs.get("to")


def _same_order(node: Node) -> bool:
    shape = shape_of(node.inputs[0])
    perm = node.attrs.get("perm")
    if perm is None:
        return shape is not None and len(shape) <= 1
    return tuple(perm) == tuple(range(len(perm)))


def _same_shape(node: Node) -> bool:
    """Reshape: every size but at most one is kept, and that one follows from the number of elements, if not 0."""
    before, wanted = shape_of(node.inputs[0]), integers(node, 1, "shape")
    after = shape_of(node.output)
    if before is not None and before == after and all(isinstance(d, int) for d in before):
        return True
    if before is None or wanted is None or len(before) != len(wanted) or attr(node, "allowzero", 0):
        return False
    if 0 in before:
        return False
    changed = [w for w, d in zip(wanted, before) if w not in (0, d)]
    counted = all(isinstance(d, int) for w, d in zip(wanted, before) if w in (0, d))
    one_left = not changed or (len(changed) == 1 and (changed == [-1] or counted))
    return one_left or same_sizes(reshaped(before, wanted), before)


def _expands_nothing(node: Node) -> bool:
    before, wanted = shape_of(node.inputs[0]), integers(node, 1, "shape")
    if before is None:
        return False
    if before == shape_of(node.output) and all(isinstance(d, int) for d in before):
        return True
    if wanted is None or len(wanted) > len(before):
        return False
    return all(w == 1 or w == d for w, d in zip(wanted, before[len(before) - len(wanted) :]))


def _takes_all(node: Node) -> bool:
    """Slice from the first to beyond the last element, in steps of 1."""
    starts, ends = integers(node, 1, "starts"), integers(node, 2, "ends")
    if starts is None or ends is None or any(s != 0 for s in starts):
        return False
    if node.input(4) is not None and any(s != 1 for s in integers(node, 4, "steps") or (0,)):
        return False
    if all(e >= TO_END for e in ends):
        return True
    shape = shape_of(node.inputs[0])
    if shape is None or (node.input(3) is not None and integers(node, 3, "axes") is None):
        return False
    axes = integers(node, 3, "axes") or list(range(len(starts)))
    return all(e >= TO_END or (isinstance(d := shape[a], int) and e >= d) for a, e in zip(axes, ends))


def _pads_nothing(node: Node) -> bool:
    pads = integers(node, 1, "paddings" if version_for(node) < 2 else "pads")
    return pads is not None and not any(pads)


def _axes_given_empty(node: Node) -> bool:
    return integers(node, 1, "axes") == []


def _squeezes_nothing(node: Node) -> bool:
    shape = shape_of(node.inputs[0])
    return node.input(1) is None and "axes" not in node.attrs and shape is not None and _all_larger(shape)


def _all_larger(shape: Sequence[Dim]) -> bool:
    return all(isinstance(d, int) and d != 1 for d in shape)


def _is_flat(node: Node) -> bool:
    shape = shape_of(node.inputs[0])
    return shape is not None and len(shape) == 2 and attr(node, "axis", 1) in (1, -1)


def _reduces_ones(node: Node) -> bool:
    """A sum, mean, product or extreme over axes of size 1 that are kept."""
    shape = shape_of(node.inputs[0])
    axes = integers(node, 1, "axes")
    if axes is None and node.input(1) is not None:
        return False
    if not axes:
        if attr(node, "noop_with_empty_axes", 0):
            return True
        axes = list(range(len(shape))) if shape is not None else None
    if shape is None or axes is None or not attr(node, "keepdims", 1):
        return False
    return all(shape[a] == 1 for a in axes)


def _pools_nothing(node: Node) -> bool:
    kernel = node.attrs.get("kernel_shape", ())
    ones = all(v == 1 for v in (*kernel, *node.attrs.get("strides", ())))
    before = node.inputs[0].producer if node.inputs[0] is not None else None
    if node.op == "MaxPool" and before is not None and before.op == "Pad":
        return False  # onnxruntime's maximum of -inf, with which exporters pad, is the lowest number
    return bool(kernel) and ones and not any(node.attrs.get("pads", ()))


def _resizes_nothing(node: Node) -> bool:
    if node.input(3) is not None or attr(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return False
    scales = node.attrs.get("scales")
    if scales is None:
        scales = small_array(node, 1 if version_for(node) < 11 else 2)
    return scales is not None and len(scales) > 0 and all(float(v) == 1.0 for v in scales)


def _chooses(node: Node) -> int | None:
    """Where with a constant condition that does not broadcast: the chosen operand, if it has the result's shape."""
    for slot, number in ((1, 1), (2, 0)):
        shape, result = shape_of(node.input(slot)), shape_of(node.output)
        whole = shape is not None and shape == result and all(isinstance(d, int) for d in shape)
        if whole and _is_filled(node.constant(0), number):
            return slot
    return None


def _joins_one(node: Node) -> int | None:
    """Concat of one operand and empty ones, as the rest of heads that a rotary embedding turns whole: that operand."""
    axis, shapes = int(attr(node, "axis", 1)), [shape_of(value) for value in node.inputs]
    if any(not shape or not -len(shape) <= axis < len(shape) for shape in shapes):
        return 0 if len(node.inputs) == 1 and node.inputs[0] is not None else None
    filled = [slot for slot, shape in enumerate(shapes) if shape and shape[axis] != 0]
    return filled[0] if len(filled) == 1 else None


_TABLE: dict[str, Callable[[Node], int | None]] = {
    "Identity": _first(lambda n: True), "Dropout": _first(is_deterministic), "Cast": _first(_same_dtype),
    "CastLike": _first(_same_dtype), "Transpose": _first(_same_order), "Reshape": _first(_same_shape),
    "Expand": _first(_expands_nothing), "Slice": _first(_takes_all), "Pad": _first(_pads_nothing),
    "Concat": _joins_one, "Split": _first(lambda n: len(n.outputs) == 1),
    "Unsqueeze": _first(_axes_given_empty), "Squeeze": _first(_squeezes_nothing), "Flatten": _first(_is_flat),
    "Tile": _first(lambda n: version_for(n) >= 6 and _is_filled(n.constant(1), 1)),
    "Clip": _first(lambda n: version_for(n) >= 11 and n.input(1) is None and n.input(2) is None),
    "DepthToSpace": _first(lambda n: n.attrs.get("blocksize") == 1),
    "SpaceToDepth": _first(lambda n: n.attrs.get("blocksize") == 1), "Resize": _first(_resizes_nothing),
    "Upsample": _first(_resizes_nothing), "MaxPool": _first(_pools_nothing), "AveragePool": _first(_pools_nothing),
    "Where": _chooses, "Add": _neutral(0, either=True), "Sub": _neutral(0, either=False),
    "Mul": _neutral(1, either=True), "Div": _neutral(1, either=False), "Pow": _neutral(1, either=False),
    "Or": _neutral(0, either=True), "Xor": _neutral(0, either=True), "And": _neutral(1, either=True),
    "BitwiseOr": _neutral(0, either=True), "BitwiseXor": _neutral(0, either=True),
    **{op: _first(lambda n: len(n.inputs) == 1) for op in ("Sum", "Max", "Min", "Mean")},
    **{f"Reduce{kind}": _first(_reduces_ones) for kind in ("Sum", "Mean", "Prod", "Max", "Min")},
}  # fmt: skip
"""For each operator, the slot of the operand that the first output equals, or None."""
