"""Arithmetic on sizes, symbolic ones included, beyond what ONNX's own inference does."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from ..ir import Dim


def reshaped(before: Sequence[Dim] | None, wanted: Sequence[Dim], allowzero: bool = False) -> tuple[Dim, ...]:
    """Reshape's output shape: 0 copies the size of its axis, -1 takes the remaining elements.

    Reshape(f32[N,4,6], (0, -1)) has shape (N, 24), Reshape(f32[1,N,6], (-1, 6)) has (N, 6).
    """
    left = None if before is None else list(before)
    sizes: list[Dim] = []
    copied: list[int] = []
    for axis, size in enumerate(wanted):
        copies = size == 0 and not allowzero
        if copies and left is not None and axis < len(left):
            copied.append(axis)
            sizes.append(left[axis])
        else:
            sizes.append(None if copies else size)
    if sizes.count(-1) != 1:
        return tuple(None if size == -1 else size for size in sizes)
    hole = sizes.index(-1)
    sizes[hole] = None
    if left is not None:
        whole = [size for axis, size in enumerate(left) if axis not in copied]
        part = [size for axis, size in enumerate(sizes) if axis not in copied and axis != hole]
        sizes[hole] = quotient(whole, part)
    return tuple(sizes)


def quotient(whole: Sequence[Dim], part: Sequence[Dim]) -> Dim:
    """The size d for which d times the product of `part` is the product of `whole`; None if unknown.

    (N, 4, 6) by (24,) is N; (N, 4) by (N,) is 4.
    """
    if None in whole or None in part:
        return None
    names = Counter(d for d in whole if isinstance(d, str))
    names.subtract(d for d in part if isinstance(d, str))
    numbers = [math.prod(d for d in dims if isinstance(d, int)) for dims in (whole, part)]
    if any(count < 0 for count in names.values()) or numbers[1] <= 0 or numbers[0] <= 0 or numbers[0] % numbers[1]:
        return None
    left = list(names.elements())
    number = numbers[0] // numbers[1]
    if not left:
        return number
    return left[0] if len(left) == 1 and number == 1 else None


_PLUS = re.compile(r"(?<=\S)\+(?=\S)")


def total(a: Dim, b: Dim) -> Dim:
    """The size a + b, named alike in either order: (past, seq) and (seq, past) give "past+seq"; None if unknown."""
    terms = [*_terms(a), *_terms(b)]
    return None if None in terms else _sum(terms)


def remainder(a: Dim, b: Dim) -> Dim:
    """The size a - b, where b is a part of the sum a: "past+seq" less "past" is "seq"; None if unknown."""
    left, off = Counter(_terms(a)), Counter(_terms(b))
    if None in left or None in off:
        return None
    number = sum(d * count for d, count in left.items() if isinstance(d, int))
    number -= sum(d * count for d, count in off.items() if isinstance(d, int))
    names = Counter({d: count for d, count in left.items() if isinstance(d, str)})
    names.subtract({d: count for d, count in off.items() if isinstance(d, str)})
    if any(count < 0 for count in names.values()):
        return None
    return _sum([*names.elements(), number])


def _terms(size: Dim) -> list[Dim]:
    if not isinstance(size, str):
        return [size]
    return [int(term) if term.isdecimal() else term for term in _PLUS.split(size)]


def _sum(terms: Sequence[Dim]) -> Dim:
    """A sum of names and numbers; None where a name is combined with a negative number: sizes are not negative."""
    number = sum(term for term in terms if isinstance(term, int))
    names = sorted(term for term in terms if isinstance(term, str))
    if not names:
        return number
    return None if number < 0 else "+".join([*names, *([str(number)] if number else [])])


def same_sizes(a: Sequence[Dim] | None, b: Sequence[Dim] | None) -> bool:
    """Whether both shapes are known to be equal, size by size."""
    return a is not None and b is not None and None not in a and tuple(a) == tuple(b)


def same_by_count(a: Sequence[Dim] | None, b: Sequence[Dim] | None) -> bool:
    """Whether equal numbers of elements imply equal shapes: all sizes but one are equal, positive numbers."""
    if a is None or b is None or len(a) != len(b):
        return False
    rest = [x for x, y in zip(a, b) if x == y and isinstance(x, int) and x > 0]
    return same_sizes(a, b) or len(rest) == len(a) - 1
