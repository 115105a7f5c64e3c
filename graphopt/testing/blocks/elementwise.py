"""Element-wise operators, with operands that simplifications target: zeros, ones, repeated operators."""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ...ir import DType, TensorType, Value
from ..sketch import FLOATS, INTEGERS, WIDE, Sketch
from .operands import SINGLE

_UNARY = ("Relu", "Identity", "Sigmoid", "Tanh", "Abs", "Neg", "Dropout", "Softplus", "Softsign", "Elu", "Selu",
          "LeakyRelu", "HardSigmoid", "HardSwish", "Sin", "Celu", "ThresholdedRelu")  # fmt: skip
_NUMBERS = (0.0, 1.0, 2.0, -1.0, 0.5, 3.0)  # operands that simplifications target, and others


def unary(s: Sketch) -> None:
    """f(x)"""
    op = s.choose((*_UNARY, *(("Erf",) if s.opset >= 9 else ()), *(("Mish",) if s.opset >= 18 else ())))
    x = s.pick(*((DType.FLOAT,) if op in SINGLE else FLOATS))
    s.node(op, x)


def unary_twice(s: Sketch) -> None:
    """f(f(x)), f(g(x)) or the same f(x) computed twice"""
    op, other = s.choose(("Relu", "Neg", "Abs", "Identity")), s.choose(("Relu", "Neg", "Abs", "Sigmoid"))
    x = s.pick(*WIDE)
    first = s.node(op, x)
    if s.chance(0.4):
        s.node("Add", first, s.node(op, x))
    else:
        s.node(s.choose((op, other)), first)


def guarded(s: Sketch) -> None:
    """Functions after operators that map their operand into the domain, away from large results"""
    op = s.choose(("Sqrt", "Log", "Exp", "Reciprocal"))
    if op == "Exp":
        s.node("Exp", s.pick(*WIDE, bound=6.0), bound=60.0)
        return
    x = s.pick(*WIDE)
    positive = s.node("Add", s.node("Abs", x), s.constant(s.choose((1.0, 0.5)), s.dtype(x)))
    s.node(op, positive)


def rounding(s: Sketch) -> None:
    """Rounding and Sign, of steady values"""
    op = s.choose(("Floor", "Ceil", "Round", "Sign"))
    s.node(op, s.pick(*WIDE, steady=True))


def partner(s: Sketch, x: Value, *, low: float = -1.0, wide: bool = True, constant: bool = False) -> Value:
    """A value that broadcasts with `x`: from the pool, or a constant in a shape that simplifications distinguish."""
    dtype, shape = s.dtype(x), s.shape(x)
    fits = [v for v in s.pool if _same_type(v, x) and s.facts[v].bound <= 1e4 and low < 0]
    if fits and not constant and s.chance(0.4):
        return s.choose(fits[::-1])
    rank = len(shape)
    sizes: list[tuple[int, ...]] = [(), (1,), (1,) * rank]
    if rank and isinstance(shape[-1], int):
        sizes.append((shape[-1],))
    if rank >= 3 and isinstance(shape[1], int):
        sizes += [(shape[1],) + (1,) * (rank - 2), (1, shape[1]) + (1,) * (rank - 2)]
    if rank and all(isinstance(d, int) for d in shape):
        sizes.append(tuple(d for d in shape if isinstance(d, int)))
    if wide:
        sizes.append((1,) * (rank + 1))
        sizes += [(3, *(1,) * (rank - 1))] if rank and shape[0] == 1 else []
    size = s.choose(sizes)
    if dtype.is_float and s.chance(0.5):
        return s.weight(size, dtype, low)
    number = s.choose(_NUMBERS if low < 0 else (1.0, 2.0, 0.5))
    return s.constant(np.full(size, number), dtype)


def _same_type(v: Value, x: Value) -> bool:
    return isinstance(v.type, TensorType) and v.type == x.type and v.type.shape is not None and None not in v.type.shape


def binary(s: Sketch) -> None:
    """x op y, broadcasting"""
    op = s.choose(("Add", "Mul", "Sub", "Div", "Max", "Min", "Pow"))
    x = s.pick(*FLOATS, *INTEGERS) if op in ("Add", "Mul", "Sub") else s.pick(*WIDE)
    if op == "Pow":
        _power(s, x)
        return
    y = partner(s, x, low=0.5 if op == "Div" else -1.0)
    swap = op != "Div" and s.chance(0.3)
    s.node(op, *((y, x) if swap else (x, y)), bound=s.facts[x].bound * 2 if op == "Div" else None)


def _power(s: Sketch, x: Value) -> None:
    exponent = s.choose((2.0, 1.0, 3.0, 0.0, 0.5, -1.0))
    if exponent not in (1.0, 2.0, 3.0, 0.0):
        x = s.node("Add", s.node("Abs", x), s.constant(1.0, s.dtype(x)))
    if exponent == 3.0 and s.facts[x].bound > 20:
        raise Declined("the cube would be too large")
    bound = max(1.0, s.facts[x].bound ** max(exponent, 1.0))
    s.node("Pow", x, s.constant(np.full(s.choose(((), (1,))), exponent), s.dtype(x)), bound=bound)


def chain(s: Sketch) -> None:
    """(x op c) op d: constants that can be merged"""
    ops = ("Add", "Sub", "Mul", "Div")
    x = s.pick(*WIDE, bound=200.0)
    for op in (s.choose(ops), s.choose(ops)):
        y = partner(s, x, low=0.5 if op == "Div" else -1.0, wide=False)
        first = op in ("Add", "Mul", "Sub") and s.chance(0.3)
        x = s.node(op, *((y, x) if first else (x, y)), bound=s.facts[x].bound * 2 + 4)


def variadic(s: Sketch) -> None:
    """Sum, Max, Min and Mean of one to three operands"""
    op = s.choose(("Sum", "Max", "Min", "Mean"))
    x = s.pick(*((DType.FLOAT,) if op == "Mean" else WIDE))
    others = [partner(s, x) for _ in range(s.integer(0, 2))]
    s.node(op, x, *others)


def clip(s: Sketch) -> None:
    """Clip, once or twice, with bounds that may be missing; or Min and Max in place of it"""
    x = s.pick(*(WIDE if s.opset >= 12 else (DType.FLOAT,)))
    for _ in range(s.integer(1, 2)):
        low = s.constant(s.choose((0.0, -1.0, -3.0)), s.dtype(x)) if s.chance(0.8) else None
        high = s.constant(s.choose((6.0, 1.0, 0.5)), s.dtype(x)) if s.chance(0.8) else None
        if s.chance(0.3) and low is not None and high is not None:
            x = s.node("Min", s.node("Max", x, low), high)
        else:
            x = s.node("Clip", x, low, high)
        if low is not None and high is not None:
            s.facts[x].bound = min(6.0, s.facts[x].bound)
    if s.chance(0.3):
        s.node("Relu", x)


def squash(s: Sketch) -> None:
    """Tanh or Sigmoid of a value above 1e3, which few blocks accept"""
    large = [v for v in s.pool if isinstance(v.type, TensorType) and v.type.dtype in WIDE and s.facts[v].bound > 1e3]
    x = s.choose(large)
    s.node(s.choose(("Tanh", "Sigmoid")), x)


def cast(s: Sketch) -> None:
    """Casts there and back, narrowing and widening, and to the value's own type"""
    x = s.pick(DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.INT64, DType.INT32, DType.BOOL)
    first = s.choose((DType.FLOAT, s.dtype(x), DType.DOUBLE, DType.FLOAT16, DType.INT64, DType.INT32, DType.BOOL))
    y = _cast(s, x, first)
    if s.chance(0.6):
        _cast(s, y, s.choose((s.dtype(x), DType.FLOAT, DType.INT64)))


def _cast(s: Sketch, x: Value, to: DType) -> Value:
    before, fact = s.dtype(x), s.facts[x]
    if before.is_float and not to.is_float and (not fact.steady or fact.bound > 1e4):
        raise Declined("a rounding could move an integer")
    if to is DType.FLOAT16 and fact.bound > 200:
        raise Declined("too large for half precision")
    y = s.node("Cast", x, to=int(to), bound=fact.bound if to is not DType.BOOL else 1.0)
    s.facts[y].steady = fact.steady
    return y


def compare(s: Sketch) -> None:
    """Comparisons and logic on steady values, and Where"""
    x = s.pick(*WIDE, DType.INT64, DType.INT32, steady=True)
    y = partner(s, x, wide=False)
    if not s.facts[y].steady:
        raise Declined("a rounding could flip the comparison")
    condition = s.node(s.choose(("Less", "Greater", "Equal")), x, y)
    if s.chance(0.5):
        condition = s.node("Not", condition)
    if s.chance(0.3):
        other = s.node("Equal", x, x)
        condition = s.node(s.choose(("And", "Or", "Xor")), condition, other)
    if s.chance(0.7):
        a = s.pick(*WIDE, where=lambda v: v.type == x.type) if s.dtype(x) in WIDE else x
        s.node(
            "Where", condition, *((a, partner(s, a, wide=False)) if s.chance(0.5) else (partner(s, a, wide=False), a))
        )


def where_constant(s: Sketch) -> None:
    """Where with a constant condition"""
    x = s.pick(*WIDE)
    condition = s.constant(np.full(s.choose(((), (1,))), s.chance(0.5)))
    s.node("Where", condition, x, partner(s, x, wide=False))


def logic(s: Sketch) -> None:
    """Logic of booleans with constants and with themselves"""
    x = s.pick(DType.BOOL)
    y = s.choose((s.constant(np.array(True)), s.constant(np.array(False)), x))
    s.node(s.choose(("And", "Or", "Xor")), x, y)
    if s.chance(0.4):
        s.node("Not", s.node("Not", x))


BLOCKS = (
    (unary, 6), (binary, 10), (unary_twice, 3), (guarded, 2), (rounding, 1), (chain, 5), (variadic, 2), (clip, 3),
    (squash, 2), (cast, 4), (compare, 3), (where_constant, 1), (logic, 1),
)  # fmt: skip
