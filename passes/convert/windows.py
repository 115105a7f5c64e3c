"""Masks of attention: whether they may be windows, which let a query attend to no key beyond a distance."""

from __future__ import annotations

import numpy as np

from ...ir import Array, Value

_FEW = (-1e4, -65504.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""Constants of masks that look at any number of keys: axes, steps and biases. A window would be another number."""
_FAR = 2.0**31
"""Magnitude from which a number is an end of a slice or a bias, and no window."""
_MOST = 4
"""Numbers in a constant from which on it could be a mask itself; axes and shapes of masks have fewer."""


def as_bias(mask: Array) -> Array:
    """A mask of truth values, True where a query attends to a key, as numbers added to scores; numbers as they are."""
    return np.where(mask, np.float32(0), np.finfo(np.float32).min) if mask.dtype == bool else mask


def has_no_window(mask: Value) -> bool:
    """Whether a mask is computed without a number that the distance of a key could be compared with."""
    wanted, seen = [mask], set[Value]()
    while wanted:
        value = wanted.pop()
        if value in seen:
            continue
        seen.add(value)
        if value.constant is not None:
            numbers = value.constant.array().reshape(-1)
            if numbers.size > _MOST or not (np.isin(numbers, _FEW) | (np.abs(numbers.astype(float)) >= _FAR)).all():
                return False
        elif value.producer is not None and value.producer.subgraphs:
            return False
        elif value.producer is not None and value.producer.op != "Shape":
            wanted += [given for given in value.producer.inputs if given is not None]
    return True
