"""Lowering of Slice, Split, Gather by a constant index, Expand, Pad, SpaceToDepth and DepthToSpace, of codes and of
float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np

from ....errors import Declined
from ....ir import Array, Node, Value
from ....kernels.tensors.quantization import Quantization
from ....ops import attr
from ..computed_shapes import shape_sources
from ..operands import constant_array, declared_shape, ints
from ..traits import Operation
from .operations import Blocks, Expand, Pad, Slice

OPERATORS = frozenset(("Slice", "Split", "Gather", "Expand", "Pad"))
_LAST = 1 << 62  # beyond any size
_Bound = int | Value
_Cut = tuple[int, _Bound, _Bound, int]


def selections(
    node: Node, known: Mapping[Value, Operation], at_hand: Callable[[Value], bool]
) -> tuple[Slice | Expand | Pad, ...]:
    """The operations of the outputs of a node among OPERATORS whose data kernels compute. Declined for other forms."""
    source = node.inputs[0]
    assert source is not None
    floats = known[source].writes_float
    if node.op == "Expand":
        return (expanded(node, source, node.output, (node,), floats=floats, at_hand=at_hand),)
    if node.op == "Pad":
        return (padded(node, source, node.output, (node,), _pad_value(node), floats=floats),)
    return tuple(
        [
            selected(node, source, index, output, (node,), floats=floats, at_hand=at_hand)
            for index, output in enumerate(node.outputs)
        ]
    )


def selected(
    node: Node, source: Value, index: int, output: Value, nodes: tuple[Node, ...], *, floats: bool = False,
    table: Array | None = None, at_hand: Callable[[Value], bool] = lambda value: False,
) -> Slice:  # fmt: skip
    """Output `index` of Slice, Split or Gather applied to `source`. Declined where its bounds are not known."""
    computed: dict[tuple[int, int], Value] = {}
    cuts = []
    for i, cut in enumerate(_CUTS[node.op](node, index)):
        computed |= {(i, j): number for j, number in enumerate(cut) if isinstance(number, Value)}
        axis, begin, end, step = (0 if isinstance(number, Value) else number for number in cut)
        cuts.append((axis, begin, end, step))
    number = constant_array(node.input(1)) if node.op == "Gather" else None
    shaped = dict.fromkeys(shape for bound in computed.values() for shape in shape_sources(bound, at_hand))
    return Slice(
        inputs=(source, *shaped), output=output, nodes=nodes, cuts=tuple(cuts), computed=computed,
        floats=floats, table=table,
        dropped=number is not None and number.ndim == 0,
    )  # fmt: skip


def expanded(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], *, floats: bool,
    at_hand: Callable[[Value], bool] = lambda value: False,
) -> Expand:  # fmt: skip
    """Expand of `source`. Declined where its target depends on anything but shapes and constants."""
    target = node.input(1)
    array = constant_array(target)
    assert target is not None
    if array is not None:
        sizes = tuple(int(v) for v in array.reshape(-1).tolist())
        return Expand(inputs=(source,), output=output, nodes=nodes, floats=floats, target=sizes)
    target = _without_ones(target)
    shaped = shape_sources(target, at_hand)
    return Expand(inputs=(source, *shaped), output=output, nodes=nodes, floats=floats, target=target)


def _without_ones(target: Value) -> Value:
    """`sizes` of torch's Where(sizes = −1, 1, sizes), which keeps sizes; Expand treats −1 and 1 alike."""
    node = target.producer
    test = None if node is None or node.op != "Where" or node.inputs[0] is None else node.inputs[0].producer
    if node is None or test is None or test.op != "Equal" or node.inputs[2] is None:
        return target
    ones, absent = constant_array(node.inputs[1]), constant_array(test.inputs[1])
    same = test.inputs[0] is node.inputs[2] and ones is not None and absent is not None
    return node.inputs[2] if same and np.all(ones == 1) and np.all(absent == -1) else target


def padded(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], value: float, *, floats: bool = False,
    table: Array | None = None,
) -> Pad:  # fmt: skip
    """Pad of `source` by constant pads. Declined for modes that copy elements, and for negative pads."""
    if str(attr(node, "mode", "constant")) != "constant":
        raise Declined("Pad with other than one value")
    rank = len(declared_shape(source))
    pads = _numbers(node.input(1), "pads") or ints(node, "pads", ())
    axes = _numbers(node.input(3), "axes") or tuple(range(rank))
    if len(pads) != 2 * len(axes) or min(pads, default=0) < 0:
        raise Declined("Pad that takes elements away")
    around = {axis % rank: (before, behind) for axis, before, behind in zip(axes, pads, pads[len(axes) :])}
    return Pad(
        inputs=(source,), output=output, nodes=nodes, floats=floats, table=table, value=value,
        pads=tuple(around.get(axis, (0, 0)) for axis in range(rank)),
    )  # fmt: skip


def _pad_value(node: Node) -> float:
    """The constant that Pad adds. Declined where it is computed."""
    given = constant_array(node.input(2))
    if node.input(2) is not None and (given is None or given.size != 1):
        raise Declined("Pad by a value that is not constant")
    return float(attr(node, "value", 0.0)) if given is None else float(given.reshape(()))


def padded_between(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], y: Quantization, table: Array | None
) -> Pad:
    """Pad of dequantized codes, quantized to `y`."""
    value = int(y.quantize(np.array(_pad_value(node), np.float32)))
    return padded(node, source, output, nodes, value, table=table)


def _numbers(value: Value | None, name: str) -> tuple[int, ...] | None:
    array = constant_array(value)
    if value is not None and array is None:
        raise Declined(f"{name} that are not constant")
    return None if array is None else tuple(int(v) for v in array.reshape(-1).tolist())


def _of_slice(node: Node, index: int) -> tuple[_Cut, ...]:
    starts = _bounds(node.input(1)) or ints(node, "starts", ())
    ends = _bounds(node.input(2)) or ints(node, "ends", ())
    axes = _numbers(node.input(3), "axes") or ints(node, "axes", tuple(range(len(starts))))
    steps = _numbers(node.input(4), "steps") or (1,) * len(starts)
    if min(steps, default=1) < 1 or not len(starts) == len(ends) == len(axes) == len(steps):
        raise Declined("Slice that reverses")
    return tuple(zip(axes, starts, ends, steps))


def _bounds(value: Value | None) -> tuple[_Bound, ...]:
    """Constant bounds, or the single computed one."""
    array = constant_array(value)
    if value is None or array is not None:
        return _numbers(value, "bounds") or ()
    if tuple(declared_shape(value)) != (1,):
        raise Declined("several bounds that are computed")
    return (value,)


def _of_split(node: Node, index: int) -> tuple[_Cut, ...]:
    axis, outputs = int(attr(node, "axis", 0)), len(node.outputs)
    sizes = _numbers(node.input(1), "sizes") or ints(node, "split", ())
    if not sizes:
        shape = declared_shape(node.inputs[0]) if node.inputs[0] is not None else ()
        size = shape[axis] if -len(shape) <= axis < len(shape) else None
        if not isinstance(size, int):
            raise Declined("Split of an axis whose size is not known")
        each = -(-size // outputs)  # in an uneven Split the last part is smaller
        sizes = (*(each,) * (outputs - 1), size - each * (outputs - 1))
    ends = tuple(accumulate(sizes))
    return ((axis, ends[index] - sizes[index], ends[index], 1),)


def _of_gather(node: Node, index: int) -> tuple[_Cut, ...]:
    numbers = _numbers(node.input(1), "indices") or ()
    if not numbers or any(b - a != 1 for a, b in pairwise(numbers)) or numbers[0] < 0 <= numbers[-1]:
        raise Declined("Gather of other than neighbours")
    return ((int(attr(node, "axis", 0)), numbers[0], numbers[-1] + 1 or _LAST, 1),)


_CUTS: dict[str, Callable[[Node, int], tuple[_Cut, ...]]] = {
    "Slice": _of_slice, "Split": _of_split, "Gather": _of_gather,
}  # fmt: skip
"""The cuts of an output, by operator."""


def blocks_moved(node: Node, source: Value, known: Mapping[Value, Operation]) -> Blocks:
    """SpaceToDepth or DepthToSpace of codes or floats."""
    kind: Literal["space", "DCR", "CRD"] = "CRD" if str(attr(node, "mode", "DCR")) == "CRD" else "DCR"
    return Blocks(
        inputs=(source,), output=node.output, nodes=(node,), floats=known[source].writes_float,
        block=int(node.attrs["blocksize"]), kind="space" if node.op == "SpaceToDepth" else kind,
    )  # fmt: skip
