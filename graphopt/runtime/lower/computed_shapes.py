"""Shape operands that a model computes from shapes: the values they depend on, and their elements at known shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from math import prod

import numpy as np

from ...analysis.sizes import LONGEST, Sizes, derive_sizes
from ...errors import Declined
from ...ir import Node, TensorType, Value
from ...ops import attr
from .operands import constant_array, declared_shape, is_constant
from .traits import Shape

_SAME_SHAPE = frozenset((
    "QuantizeLinear", "DequantizeLinear", "Identity", "Cast", "Relu", "Clip", "Erf", "Tanh", "Sigmoid", "Softmax",
    "LayerNormalization", "Gelu", "com.microsoft::Gelu", "com.microsoft::QuickGelu", "HardSwish", "Sqrt", "Exp", "Neg",
))  # fmt: skip
_OPEN = 7
"""Stands for an undeclared size, in both operands alike; any number above 1 works."""
_BROADCAST = frozenset(("Add", "Sub", "Mul", "Div"))
_ONE_INPUT = _SAME_SHAPE | {"Transpose"}
_ON_INTEGERS = frozenset((
    "Shape", "Identity", "Cast", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Add", "Sub", "Mul",
    "Div",
))  # fmt: skip


def shape_sources(value: Value, is_at_hand: Callable[[Value], bool]) -> tuple[Value, ...]:
    """The values whose shapes determine the integer vector `value`, preferably such that `is_at_hand`.

    Declined where `value` depends on anything but shapes and constants.
    """
    sources: dict[Value, None] = {}
    seen: set[tuple[Value, bool]] = set()
    stack = [(value, True)]
    while stack:
        one, is_integer = stack.pop()
        if (one, is_integer) in seen or is_constant(one):
            continue
        seen.add((one, is_integer))
        node = one.producer
        if is_integer:
            if node is None or node.op not in _ON_INTEGERS:
                raise Declined("a shape that is computed from other values")
            stack += [(v, node.op != "Shape") for v in node.inputs if v is not None]
        elif node is None or is_at_hand(one) or node.op not in (*_SAME_SHAPE, *_SHAPES):
            sources[one] = None
        elif node.op == "Reshape":
            stack += [(v, slot == 1) for slot, v in enumerate(node.inputs[:2]) if v is not None]
        else:
            alike = _operands_of_same_shape(node)
            nearest = [v for v in alike if is_at_hand(v)][:1] or alike[:1] or node.inputs
            stack += [(v, False) for v in (node.inputs[:1] if node.op in _ONE_INPUT else nearest) if v is not None]
    try:
        computed_sizes(value, {source: _assumed_shape(source) for source in sources})
    except Declined as reason:
        raise Declined("a shape that cannot be computed") from reason
    return tuple(sources)


def _operands_of_same_shape(node: Node) -> list[Value]:
    """Operands declared with the result's sizes, fixed or named."""
    declared = _declared(node.output)
    if declared is None or any(dim is None for dim in declared):
        return []
    return [v for v in node.inputs if v is not None and _declared(v) == declared]


def operands_of_same_shape(node: Node) -> list[Value]:
    """Operands of the result's shape: by the operator's definition, or by declared sizes for broadcasting operators."""
    if node.op in _SAME_SHAPE and node.inputs[0] is not None:
        return [node.inputs[0]]
    return _operands_of_same_shape(node) if node.op in _BROADCAST else []


def _declared(value: Value) -> tuple[int | str | None, ...] | None:
    return value.type.shape if isinstance(value.type, TensorType) else None


def _assumed_shape(value: Value) -> Shape:
    """The declared shape, with 1 for open sizes."""
    declared = _declared(value)
    if declared is None:
        raise Declined("a value of unknown rank")
    return tuple(d if isinstance(d, int) else 1 for d in declared)


def computed_sizes(value: Value, known: Mapping[Value, Shape]) -> Shape:
    """The elements of an integer vector or scalar, given shapes by value. Declined where these do not determine it."""
    return _numbers(_Answers(known).sizes_of(value))


def _numbers(sizes: Sizes | None) -> Shape:
    if sizes is None or not sizes.known:
        raise Declined("a shape that is computed from other values")
    return tuple(int(d) for d in sizes.dims if isinstance(d, int))


def shape_of(value: Value, known: Mapping[Value, Shape]) -> Shape:
    """The shape of a value, given other values' shapes. Declined where these do not determine it."""
    return _Answers(known).shape_of(value)


class _Pending(Exception):
    """Raised where an answer needs another one first: elements (else the shape), and of which value."""

    def __init__(self, question: tuple[bool, Value]) -> None:
        self.question = question


class _Answers:
    """Memoized shapes of values and elements of integer vectors.

    Both operands of each residual Add lead to the Add before, so that recursion without memory takes 2^depth steps.
    Pending questions lie on a list, not on Python's stack, which 200 layers exceed: a question that needs another
    answer first is abandoned, and asked again when that answer is known.
    """

    def __init__(self, known: Mapping[Value, Shape]) -> None:
        self.known = known
        self.found: dict[tuple[bool, Value], Sizes | Shape | Declined | None] = {}
        self.is_running = False

    def shape_of(self, value: Value) -> Shape:
        """The shape of a value. Declined where the known ones do not determine it."""
        answer = self._answer((False, value))
        assert isinstance(answer, tuple)
        return answer

    def sizes_of(self, value: Value | None) -> Sizes | None:
        """The elements of an integer vector or scalar, None for values of another kind. Declined as in `shape_of`."""
        if value is None:
            return None
        answer = self._answer((True, value))
        assert answer is None or isinstance(answer, Sizes)
        return answer

    def _answer(self, question: tuple[bool, Value]) -> Sizes | Shape | None:
        if question not in self.found:
            if self.is_running:
                raise _Pending(question)
            self._run(question)
        answer = self.found[question]
        if isinstance(answer, Declined):
            raise answer.with_traceback(None)
        return answer

    def _run(self, first: tuple[bool, Value]) -> None:
        self.is_running = True
        stack = [first]
        try:
            while stack:
                are_elements, value = stack[-1]
                try:
                    found = self._find_sizes(value) if are_elements else self._find_shape(value)
                except _Pending as needed:
                    stack.append(needed.question)
                    continue
                except Declined as reason:
                    self.found[stack.pop()] = reason
                    continue
                self.found[stack.pop()] = found
        finally:
            self.is_running = False

    def _find_sizes(self, value: Value) -> Sizes | None:
        array = constant_array(value)
        if array is not None:
            fits = array.ndim <= 1 and array.size <= LONGEST and array.dtype.kind == "i"
            return Sizes(tuple(array.reshape(-1).tolist()), array.ndim == 0) if fits else None
        node = value.producer
        if node is None or node.op not in _ON_INTEGERS:
            return None
        if node.op == "Shape":
            source = node.inputs[0]
            assert source is not None
            return Sizes(self.shape_of(source)[slice(attr(node, "start", 0), attr(node, "end"))])
        return derive_sizes(node, self.sizes_of)

    def _find_shape(self, value: Value) -> Shape:
        if value in self.known:
            return self.known[value]
        array = constant_array(value)
        if array is not None:
            return array.shape
        node = value.producer
        if node is None or value.index:
            raise Declined("a shape that is not known")
        source = node.inputs[0]
        assert source is not None
        if node.op in _SAME_SHAPE:
            return self.shape_of(source)
        for operand in _operands_of_same_shape(node) if node.op in _BROADCAST else ():
            with suppress(Declined):
                return self.shape_of(operand)
        if node.op in _SHAPES:
            return _SHAPES[node.op](node, self.shape_of(source), self)
        raise Declined(f"the shape that {node.op} gives")


def reshaped(target: Shape, x: Shape, *, allow_zero: bool) -> Shape:
    """Reshape's target with zeros copied and −1 inferred, as 0 for an empty x. Declined where the sizes do not fit."""
    if not allow_zero and 0 in target[len(x) :]:
        raise Declined(f"Reshape of {x} to {target}, which copies a size that is not there")
    sizes = [x[axis] if size == 0 and not allow_zero else size for axis, size in enumerate(target)]
    if -1 in sizes:
        rest = prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = prod(x) // rest if rest else 0
    if prod(sizes) != prod(x):
        raise Declined(f"Reshape of {x} to {target}")
    return tuple(sizes)


def broadcast(*shapes: Shape) -> Shape:
    """The shape to which numpy broadcasts these shapes. Declined where numpy cannot."""
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError as error:
        raise Declined(f"operands of shapes {', '.join(map(str, shapes))}") from error


def check_broadcast(x: Value, other: Value) -> None:
    """Declined where kernels cannot broadcast `other` to x. Open sizes count as equal until shapes are known."""
    left, right = declared_shape(x), declared_shape(other)
    sizes = [
        tuple(dim if isinstance(dim, int) else against if isinstance(against, int) else _OPEN for dim, against in pairs)
        for pairs in (
            zip(left, (*[_OPEN] * (len(left) - len(right)), *right)),
            zip(right, left[max(0, len(left) - len(right)) :]),
        )
    ]
    if broadcast(*sizes) != sizes[0]:
        raise Declined(f"{right} does not broadcast to {left}")


def _reshape(node: Node, x: Shape, answers: _Answers) -> Shape:
    target = node.input(1)
    if target is None:
        raise Declined("Reshape without a shape")
    return reshaped(_numbers(answers.sizes_of(target)), x, allow_zero=bool(attr(node, "allowzero", 0)))


def _transpose(node: Node, x: Shape, answers: _Answers) -> Shape:
    return tuple(x[axis] for axis in node.attrs.get("perm") or reversed(range(len(x))))


def _broadcast(node: Node, x: Shape, answers: _Answers) -> Shape:
    other = node.inputs[1]
    assert other is not None
    return broadcast(x, answers.shape_of(other))


_SHAPES: dict[str, Callable[[Node, Shape, _Answers], Shape]] = {
    "Reshape": _reshape, "Transpose": _transpose, **dict.fromkeys(_BROADCAST, _broadcast),
}  # fmt: skip
