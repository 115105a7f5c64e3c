"""Union-find of channel positions, vectorized over whole axes."""

from __future__ import annotations

from typing import Any

import numpy as np

Ids = np.ndarray[Any, np.dtype[np.int64]]
"""The elements at an axis's positions, int64[n]. Positions with elements of one set are kept or removed together."""


class Elements:
    """Union-find on integers in numpy: the cost of uniting two axes is a few vector operations, not a Python loop."""

    def __init__(self) -> None:
        self._parent: Ids = np.arange(1024, dtype=np.int64)
        self.size = 0

    def fresh(self, count: int) -> Ids:
        """`count` new elements, each in its own set."""
        start, self.size = self.size, self.size + count
        if self.size > len(self._parent):
            grown = np.arange(2 * self.size, dtype=np.int64)
            grown[:start] = self._parent[:start]
            self._parent = grown
        return np.arange(start, self.size, dtype=np.int64)

    def find(self, ids: Ids) -> Ids:
        """The representative of each element: the smallest of its set."""
        roots = self._parent[ids]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                self._parent[ids] = roots
                return roots
            roots = above

    def unite(self, a: Ids, b: Ids) -> None:
        """Join the sets of a[i] and b[i], for every i."""
        while True:
            left, right = self.find(a), self.find(b)
            apart = left != right
            if not apart.any():
                return
            low, high = np.minimum(left, right)[apart], np.maximum(left, right)[apart]
            self._parent[high] = low  # of two parents for one root the last wins; the next round joins the other

    def roots(self) -> Ids:
        """The representative of every element."""
        return self.find(np.arange(self.size, dtype=np.int64))
