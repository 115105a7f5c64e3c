"""What is known of a node's operands: types, shapes, the integers that steer it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir import Dim, Node, TensorType, Value

SMALL = 4096
"""Elements of the largest constant that is looked at."""


def tensor_of(value: Value | None) -> TensorType | None:
    """The tensor type of a value."""
    return value.type if value is not None and isinstance(value.type, TensorType) else None


def shape_of(value: Value | None) -> tuple[Dim, ...] | None:
    """The shape of a value, None where even its rank is unknown."""
    type = tensor_of(value)
    return None if type is None else type.shape


def small_array(node: Node, slot: int) -> np.ndarray[Any, Any] | None:
    """The constant at input `slot`, if it is one and small."""
    constant = node.constant(slot)
    return constant.array() if constant is not None and constant.size <= SMALL else None


def integers(node: Node, slot: int, name: str) -> list[int] | None:
    """Integers that newer opsets take as input `slot` and older ones as an attribute; None if absent or unknown."""
    if name in node.attrs:
        return list(node.attrs[name])
    array = small_array(node, slot)
    return None if array is None else [int(v) for v in array.reshape(-1)]


def axis_of(number: int, rank: int | None) -> int | None:
    """An axis counted from the front; None where that takes a rank that is unknown."""
    if number >= 0:
        return number
    return None if rank is None else number + rank
