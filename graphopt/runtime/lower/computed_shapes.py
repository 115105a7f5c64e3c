"""Reshape's targets that the model computes from shapes: evaluated when a plan is made, from shapes known by then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from ...errors import Declined
from ...ir import Array, DType, Node, TensorType, Value
from ...ops import attr
from .operands import constant_array, is_constant

Shape = tuple[int, ...]
_SAME_SHAPE = frozenset((
    "QuantizeLinear", "DequantizeLinear", "Identity", "Cast", "Relu", "Clip", "Erf", "Tanh", "Sigmoid", "Softmax",
    "LayerNormalization", "Gelu", "com.microsoft::Gelu", "com.microsoft::QuickGelu", "HardSwish", "Sqrt", "Exp", "Neg",
))  # fmt: skip
_BROADCAST = frozenset(("Add", "Sub", "Mul", "Div"))
_ONE_INPUT = _SAME_SHAPE | {"Transpose"}


def leaves(value: Value, stop: Callable[[Value], bool]) -> tuple[Value, ...]:
    """The values whose shapes an integer `value` is computed from. Declined where it is computed from anything else."""
    found: dict[Value, None] = {}
    seen: set[tuple[Value, bool]] = set()
    stack = [(value, True)]
    while stack:
        one, is_integer = stack.pop()
        if (one, is_integer) in seen or is_constant(one):
            continue
        seen.add((one, is_integer))
        node = one.producer
        if is_integer:
            if node is None or node.op not in _INTEGERS:
                raise Declined("a shape that is computed from other values")
            stack += [(v, node.op != "Shape") for v in node.inputs if v is not None]
        elif node is None or stop(one) or node.op not in (*_SAME_SHAPE, *_SHAPES):
            found[one] = None
        elif node.op == "Reshape":
            stack += [(v, slot == 1) for slot, v in enumerate(node.inputs[:2]) if v is not None]
        else:
            alike = _alike(node)
            nearest = [v for v in alike if stop(v)][:1] or alike[:1] or [v for v in node.inputs if v is not None]
            stack += [(v, False) for v in (node.inputs[:1] if node.op in _ONE_INPUT else nearest) if v is not None]
    try:
        integers(value, {leaf: _guess(leaf) for leaf in found})
    except (ValueError, IndexError, TypeError) as error:
        raise Declined("a shape that cannot be computed") from error
    return tuple(found)


def _alike(node: Node) -> list[Value]:
    """Operands of the very shape, by the names of its sizes, that the result has."""
    declared = _declared(node.output)
    if declared is None or any(dim is None for dim in declared):
        return []
    return [v for v in node.inputs if v is not None and _declared(v) == declared]


def _declared(value: Value) -> tuple[int | str | None, ...] | None:
    return value.type.shape if isinstance(value.type, TensorType) else None


def _guess(value: Value) -> Shape:
    """The declared shape, with 1 for what is open."""
    declared = _declared(value)
    if declared is None:
        raise ValueError("a value of unknown rank")
    return tuple(d if isinstance(d, int) else 1 for d in declared)


def integers(value: Value, known: Mapping[Value, Shape]) -> Array:
    """The value of an integer tensor, given shapes by value. Raises ValueError where they do not determine it."""
    array = constant_array(value)
    if array is not None:
        return array
    node = value.producer
    evaluate = None if node is None else _INTEGERS.get(node.op)
    if node is None or evaluate is None or value.index:
        raise ValueError("a shape that is computed from other values")
    if node.op == "Shape":
        source = node.inputs[0]
        assert source is not None
        shape = np.array(shape_of(source, known), np.int64)
        return shape[attr(node, "start", 0) : attr(node, "end", len(shape))]
    operands = [None if v is None else integers(v, known) for v in node.inputs]
    return np.asarray(evaluate(node, *operands))


def shape_of(value: Value, known: Mapping[Value, Shape]) -> Shape:
    """The shape of a value, given those of others. Raises ValueError where they do not determine it."""
    if value in known:
        return known[value]
    array = constant_array(value)
    if array is not None:
        return array.shape
    node = value.producer
    if node is None or value.index:
        raise ValueError("a shape that is not known")
    source = node.inputs[0]
    assert source is not None
    if node.op in _SAME_SHAPE:
        return shape_of(source, known)
    for operand in _alike(node) if node.op in _BROADCAST else ():
        with suppress(ValueError):
            return shape_of(operand, known)
    if node.op in _SHAPES:
        return _SHAPES[node.op](node, shape_of(source, known), known)
    raise ValueError(f"the shape that {node.op} gives")


def resolved(target: Shape, x: Shape, *, allow_zero: bool) -> Shape:
    """Reshape's target with zeros copied and −1 inferred. Raises ValueError where the elements do not fit."""
    if not allow_zero and 0 in target[len(x) :]:
        raise ValueError(f"Reshape of {x} to {target}, which copies a size that is not there")
    made = [x[i] if d == 0 and not allow_zero else d for i, d in enumerate(target)]
    if -1 in made:
        rest = prod(d for d in made if d != -1)
        made[made.index(-1)] = prod(x) // rest if rest else 0
    if prod(made) != prod(x):
        raise ValueError(f"Reshape of {x} to {target}")
    return tuple(made)


def _reshape(node: Node, x: Shape, known: Mapping[Value, Shape]) -> Shape:
    given = node.input(1)
    if given is None:
        raise ValueError("Reshape without a shape")
    target = tuple(integers(given, known).reshape(-1).tolist())
    return resolved(target, x, allow_zero=bool(attr(node, "allowzero", 0)))


def _transpose(node: Node, x: Shape, known: Mapping[Value, Shape]) -> Shape:
    return tuple(x[axis] for axis in node.attrs.get("perm") or reversed(range(len(x))))


def _broadcast(node: Node, x: Shape, known: Mapping[Value, Shape]) -> Shape:
    other = node.inputs[1]
    assert other is not None
    return tuple(np.broadcast_shapes(x, shape_of(other, known)))


def _slice(node: Node, x: Array, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Array:
    if x.ndim != 1 or starts.size != 1 or (axes is not None and axes.reshape(-1)[0] not in (0, -1)):
        raise ValueError("Slice of something else than a shape")
    step = 1 if steps is None else int(steps.reshape(-1)[0])
    return x[int(starts.reshape(-1)[0]) : int(ends.reshape(-1)[0]) : step]


def _axes(node: Node, given: Any) -> tuple[int, ...]:
    named = node.attrs.get("axes", ()) if given is None else given.reshape(-1).tolist()
    return tuple(int(axis) for axis in named)


def _divide(node: Node, a: Any, b: Any) -> Array:
    if not np.all(b):
        raise ValueError("a size divided by zero")
    return np.asarray(np.trunc(np.divide(a, b)).astype(np.int64))


_SHAPES: dict[str, Callable[[Node, Shape, Mapping[Value, Shape]], Shape]] = {
    "Reshape": _reshape, "Transpose": _transpose, **dict.fromkeys(_BROADCAST, _broadcast),
}  # fmt: skip
_INTEGERS: dict[str, Callable[..., Any]] = {
    "Shape": lambda node, x: x,
    "Identity": lambda node, x: x,
    "Cast": lambda node, x: x.astype(DType(int(node.attrs["to"])).numpy),
    "Gather": lambda node, x, i: np.take(x, i, int(attr(node, "axis", 0))),
    "Slice": _slice,
    "Concat": lambda node, *parts: np.concatenate(parts, int(node.attrs["axis"])),
    "Unsqueeze": lambda node, x, axes=None: np.expand_dims(x, _axes(node, axes)),
    "Squeeze": lambda node, x, axes=None: np.squeeze(x, _axes(node, axes) or None),
    "Reshape": lambda node, x, shape: x.reshape(shape.tolist()),
    "Add": lambda node, a, b: a + b,
    "Sub": lambda node, a, b: a - b,
    "Mul": lambda node, a, b: a * b,
    "Div": _divide,
}
