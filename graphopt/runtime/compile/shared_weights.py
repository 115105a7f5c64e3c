"""Constant arrays of a program that are equal become one: layers that share weights read the same memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir import Array
from ...kernels import Step

_LEAST = 1 << 12
"""Bytes of the smallest array that is compared: a page, below which nothing is gained in caches. Derived."""

_SAMPLE = 64
"""Elements by which arrays are told apart before all are compared: other layers' weights differ in the first few."""


def share_weights(steps: Sequence[Step]) -> None:
    """Let arguments and tables of all steps hold the first of equal arrays.

    A model whose layers share weights has them packed for each layer; read from one place they stay in the caches.
    """
    known: dict[object, list[Array]] = {}

    def first(array: Array) -> Array:
        if array.nbytes < _LEAST:
            return array
        key = array.shape, array.dtype.str, array.reshape(-1)[:: max(1, array.size // _SAMPLE)].tobytes()
        alike = known.setdefault(key, [])
        for other in alike:
            if other is array or np.array_equal(other.view(np.uint8), array.view(np.uint8)):
                return other
        alike.append(array)
        return array

    for step in steps:
        step.replace_arrays(first)
