"""Constants with infinite elements: limits without effect, masks, weights."""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import DType, Value
from ..sketch import WIDE, Sketch
from .elementwise import partner


def limits(s: Sketch) -> None:
    """Clip, Min, Max or Where with an infinite operand, which is the other operand or an infinity"""
    x = s.pick(*(WIDE if s.opset >= 12 else (DType.FLOAT,)))
    high, low = (s.constant(sign * np.inf, s.dtype(x)) for sign in (1, -1))
    op = s.choose(("Clip", "Min", "Max", "Where"))
    if op == "Clip":
        zero = s.constant(0.0, s.dtype(x))
        s.node(op, x, *s.choose(((low, high), (zero, high), (low, zero), (low, None))), bound=s.facts[x].bound)
    elif op == "Where":
        closed = s.constant(s.arrays.random(_plain(s, x)) < 0.4)
        y = s.node(op, closed, *(s.choose((high, low)), x)[:: s.choose((1, -1))], bound=np.inf)
        _bounded(s, y, False)
    else:
        y = s.node(op, *(x, s.choose((high, low)))[:: s.choose((1, -1))], bound=np.inf)
        _bounded(s, y, False)


def arithmetic(s: Sketch) -> None:
    """x op c for c with an infinite element, then another constant, which may be 0: NaN and infinities stay theirs"""
    x = s.pick(*WIDE, bound=100.0)
    y = s.node(s.choose(("Add", "Mul", "Sub", "Div")), x, _infinite(s, _plain(s, x)[-1:], s.dtype(x)), bound=np.inf)
    if s.chance(0.5):
        other = s.constant(s.choose((0.0, 1.0, 2.0, -1.0, np.inf)), s.dtype(x))
        y = s.node(s.choose(("Mul", "Add", "Sub")), *(y, other)[:: s.choose((1, -1))], bound=np.inf)
    _bounded(s, y)


def weights(s: Sketch) -> None:
    """MatMul, Gemm or Conv whose weight or bias holds an infinity and zeros, then operators that fold into it"""
    x = s.pick(DType.FLOAT, ranks=(2, 3, 4), bound=50.0)
    image = s.rank(x) == 4
    shape = (4, s.size(x, 1), 1, 1) if image else (s.size(x, -1), 4)
    infinite = s.chance(0.5)
    weight = _infinite(s, shape, DType.FLOAT) if infinite else s.weight(shape)
    if image:
        bias = None if infinite else _infinite(s, (4,), DType.FLOAT)
        y = s.node("Conv", x, weight, bias, bound=np.inf)
    else:
        y = s.node("MatMul", x, weight, bound=np.inf)
        if not infinite:
            y = s.node("Add", y, _infinite(s, (4,), DType.FLOAT), bound=np.inf)
    for _ in range(s.integer(0, 2)):
        y = s.node(s.choose(("Mul", "Add")), y, partner(s, y, wide=False, constant=True), bound=np.inf)
    _bounded(s, y)


def _plain(s: Sketch, x: Value) -> tuple[int, ...]:
    """The sizes of `x` where they are numbers, 1 elsewhere."""
    return tuple(d if isinstance(d, int) else 1 for d in s.shape(x))


def _infinite(s: Sketch, shape: tuple[int, ...], dtype: DType) -> Value:
    """Numbers between -1 and 1, a quarter of them 0, one of them infinite."""
    array = s.arrays.uniform(-1, 1, shape)
    array[s.arrays.random(shape) < 0.25] = 0
    if array.size == 0:
        raise Declined("no element")
    array.flat[s.arrays.integers(array.size)] = s.choose((np.inf, -np.inf))
    return s.constant(array, dtype)


def _bounded(s: Sketch, y: Value, no_number: bool = True) -> None:
    """Map `y`, which may be infinite, into -1 to 1; or leave it as a result that no other block reads.

    no_number: `y` may also be NaN, which is replaced first: ONNX does not define Clip and Max of NaN.
    """
    if s.chance(0.5):
        return
    if no_number:
        y = s.node("Where", s.node("IsNaN", y), s.constant(0.0, s.dtype(y)), y, bound=np.inf)
    s.node(s.choose(("Tanh", "Sigmoid")), y)


BLOCKS = ((limits, 3), (arithmetic, 3), (weights, 3))
