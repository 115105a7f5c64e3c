"""Deduplication of a program's equal constant arrays: layers with shared weights then read the same memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir import Array
from ...kernels import Step

_LEAST = 1 << 12
"""Bytes of the smallest array that is deduplicated: a page; less saves no cache. Derived."""

_SAMPLE = 64
"""Elements sampled to tell arrays apart before a full comparison: different layers' weights differ in a few."""


def share_weights(steps: Sequence[Step]) -> None:
    """Replace each constant array of the steps, arguments and tables, by the first array equal to it.

    Shared weights are packed once for each layer; read from one address, they stay in the caches.
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
