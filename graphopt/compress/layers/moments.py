"""First and second moments of what each linear operator multiplies: all that its rounding needs to know of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...calibration import portions, stream
from ...ir import Array, Model, Value
from .linear import Linear

BUDGET = 3 << 28
"""Bytes of second moments gathered in one pass over the data; more layers take more passes."""
ENOUGH = 2
"""Patches gathered for each unknown of a layer."""


@dataclass(slots=True)
class Moments:
    """Of the patches x of one layer: their number, Σ (x − c) [G, K] and Σ (x − c)(x − c)ᵀ [G, K, K], in float32.

    The centre c [G, K] is the mean of the first patches: far from it, float32 would lose what varies little beside what
    is large, and with that the positive definiteness that rounding needs.
    """

    count: int
    first: Array
    second: Array
    centre: Array | None = None

    @classmethod
    def empty(cls, linear: Linear) -> Moments:
        """Nothing seen yet."""
        shape = (linear.groups, linear.depth)
        return cls(0, np.zeros(shape, np.float32), np.zeros((*shape, linear.depth), np.float32))

    def add(self, patches: Array) -> None:
        """Take in patches [G, R, K]."""
        if not patches.shape[1]:
            return
        if self.centre is None:
            self.centre = patches.mean(axis=1, dtype=np.float64).astype(np.float32)
        patches = patches - self.centre[:, None]
        self.count += patches.shape[1]
        self.first += patches.sum(axis=1)
        self.second += np.matmul(patches.transpose(0, 2, 1), patches)

    @property
    def mean(self) -> Array:
        """E[x], [G, K]."""
        offset: Array = self.first / np.float32(max(self.count, 1))
        return offset if self.centre is None else self.centre + offset

    def covariance_of(self, group: int, centred: bool) -> Array:
        """E[x xᵀ] − E[x] E[x]ᵀ of one group, [K, K]: what rounding errors cost once a bias takes up their mean.

        centred: False where nothing takes it up; then E[x xᵀ].
        """
        made: Array = self.second[group] / np.float32(max(self.count, 1))
        offset = self.first[group] / np.float32(max(self.count, 1))
        made -= offset[:, None] * offset
        if not centred:
            mean = self.mean[group]
            made += mean[:, None] * mean
        return made


def moment_bytes(linear: Linear) -> int:
    """What the second moments of a layer take."""
    return 4 * linear.groups * linear.depth**2


def fits_memory(linear: Linear) -> bool:
    """Up to 14,000 inputs or so, the weights may be rounded by second moments."""
    return moment_bytes(linear) <= BUDGET


def gather(
    model: Model, layers: Sequence[tuple[Value, Linear]], feeds: Callable[[], Iterable[dict[str, Any]]], seed: int
) -> Iterator[tuple[Linear, Moments]]:
    """The moments of each layer's input, given with it, over the calibration data; a few layers in memory at a time."""
    for part in portions(layers, lambda item: moment_bytes(item[1]), BUDGET):
        found = {linear.node: Moments.empty(linear) for _, linear in part}
        needs = {linear.node: max(2048, ENOUGH * linear.depth) for _, linear in part}
        rng = np.random.default_rng(seed)
        values = list(dict.fromkeys(value for value, _ in part))
        for arrays in stream(model, values, feeds()):
            for value, linear in part:
                moments = found[linear.node]
                if value in arrays and moments.count < needs[linear.node]:
                    moments.add(linear.patches(arrays[value], max(256, linear.depth // 4), rng))
            if all(moments.count >= needs[node] for node, moments in found.items()):
                break
        for _, linear in part:
            yield linear, found.pop(linear.node)
