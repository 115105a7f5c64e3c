"""Lowering of Slice, Split, Gather by a constant number and Expand, of codes and of float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise

from ....errors import Declined
from ....ir import Array, Node, Value
from ....ops import attr
from ..computed_shapes import shape_sources
from ..operands import constant_array, declared_shape, ints
from ..traits import Operation
from .operations import Expand, Slice

OPERATORS = frozenset(("Slice", "Split", "Gather", "Expand"))
_LAST = 1 << 62  # beyond any size
Cut = tuple[int, int, int, int]


def selections(
    node: Node, known: Mapping[Value, Operation], at_hand: Callable[[Value], bool]
) -> tuple[Slice | Expand, ...]:
    """The operations of the outputs of one of OPERATORS, whose data kernels compute. Declined where they cannot."""
    source = node.inputs[0]
    assert source is not None
    floats = known[source].writes_float
    if node.op == "Expand":
        return (expanded(node, source, node.output, (node,), floats=floats, at_hand=at_hand),)
    return tuple(
        [selected(node, source, index, output, (node,), floats=floats) for index, output in enumerate(node.outputs)]
    )


def selected(
    node: Node, source: Value, index: int, output: Value, nodes: tuple[Node, ...], *, floats: bool = False,
    table: Array | None = None,
) -> Slice:  # fmt: skip
    """Output `index` of Slice, Split or Gather applied to `source`. Declined where it is not known which elements."""
    cuts = _CUTS[node.op](node, index)
    number = constant_array(node.input(1)) if node.op == "Gather" else None
    return Slice(
        inputs=(source,), output=output, nodes=nodes, cuts=cuts, floats=floats, table=table,
        dropped=number is not None and number.ndim == 0,
    )  # fmt: skip


def expanded(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], *, floats: bool,
    at_hand: Callable[[Value], bool] = lambda value: False,
) -> Expand:  # fmt: skip
    """Expand of `source`. Declined where its target follows from other things than shapes."""
    target = node.input(1)
    array = constant_array(target)
    assert target is not None
    if array is not None:
        sizes = tuple(int(v) for v in array.reshape(-1).tolist())
        return Expand(inputs=(source,), output=output, nodes=nodes, floats=floats, target=sizes)
    shaped = shape_sources(target, at_hand)
    return Expand(inputs=(source, *shaped), output=output, nodes=nodes, floats=floats, target=target)


def _numbers(value: Value | None, name: str) -> tuple[int, ...] | None:
    array = constant_array(value)
    if value is not None and array is None:
        raise Declined(f"{name} that are not constant")
    return None if array is None else tuple(int(v) for v in array.reshape(-1).tolist())


def _of_slice(node: Node, index: int) -> tuple[Cut, ...]:
    starts = _numbers(node.input(1), "starts") or ints(node, "starts", ())
    ends = _numbers(node.input(2), "ends") or ints(node, "ends", ())
    axes = _numbers(node.input(3), "axes") or ints(node, "axes", tuple(range(len(starts))))
    steps = _numbers(node.input(4), "steps") or (1,) * len(starts)
    if min(steps, default=1) < 1 or not len(starts) == len(ends) == len(axes) == len(steps):
        raise Declined("Slice that reverses")
    return tuple(zip(axes, starts, ends, steps))


def _of_split(node: Node, index: int) -> tuple[Cut, ...]:
    axis, outputs = int(attr(node, "axis", 0)), len(node.outputs)
    sizes = _numbers(node.input(1), "sizes") or ints(node, "split", ())
    if not sizes:
        shape = declared_shape(node.inputs[0]) if node.inputs[0] is not None else ()
        size = shape[axis] if -len(shape) <= axis < len(shape) else None
        if not isinstance(size, int):
            raise Declined("Split of an axis whose size is not known")
        each = -(-size // outputs)  # the last part is smaller where they are not alike
        sizes = (*(each,) * (outputs - 1), size - each * (outputs - 1))
    ends = tuple(accumulate(sizes))
    return ((axis, ends[index] - sizes[index], ends[index], 1),)


def _of_gather(node: Node, index: int) -> tuple[Cut, ...]:
    numbers = _numbers(node.input(1), "indices") or ()
    if not numbers or any(b - a != 1 for a, b in pairwise(numbers)) or numbers[0] < 0 <= numbers[-1]:
        raise Declined("Gather of other than neighbours")
    return ((int(attr(node, "axis", 0)), numbers[0], numbers[-1] + 1 or _LAST, 1),)


_CUTS: dict[str, Callable[[Node, int], tuple[Cut, ...]]] = {
    "Slice": _of_slice, "Split": _of_split, "Gather": _of_gather,
}  # fmt: skip
"""The cuts of an output, by operator."""
