"""First and second moments of the input of each linear operator, from which its weights are rounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...calibration import numbers, portions, stream
from ...ir import Array, Model, Value
from .linear import Linear

BUDGET = 3 << 28
"""Bytes of second moments gathered in one pass over the data; more layers take more passes. A bound on memory, not
tuned; `python -m tests.bench.quantize_time` shows the cost of passes."""
ENOUGH = 2
"""Patches gathered for each unknown of a layer: with fewer than one, second moments are singular. The factor is a
choice; `python -m tests.bench.zoo_int8` shows its effect on accuracy, `tests.bench.quantize_time` on time."""


@dataclass(slots=True)
class InputMoments:
    """Sums over a layer's patches x: their number, Σ (x − c) [G, K] and Σ (x − c)(x − c)ᵀ [G, K, K], in float32.

    The centre c [G, K] is the mean of the first patches: without it, float32 would lose small variations beside a large
    mean, and with them the positive definiteness that rounding needs. `NormalEquations` sums about zero, in float64:
    sums rounded otherwise give other weights, so the two share patches and `gram`, not their sums.
    """

    count: int
    first: Array
    second: Array
    centre: Array | None = None

    @classmethod
    def empty(cls, linear: Linear) -> InputMoments:
        """Sums over no patches."""
        shape = (linear.groups, linear.depth)
        return cls(0, np.zeros(shape, np.float32), np.zeros((*shape, linear.depth), np.float32))

    def add(self, patches: Array) -> None:
        """Add patches [G, R, K] to the sums, without those that hold NaN, infinite or mask values."""
        kept = numbers(patches)
        if kept is not None:
            patches = patches[:, kept.all(axis=(0, 2))]
        if not patches.shape[1]:
            return
        if self.centre is None:
            self.centre = patches.mean(axis=1, dtype=np.float64).astype(np.float32)
        patches = patches - self.centre[:, None]
        self.count += patches.shape[1]
        self.first += patches.sum(axis=1)
        self.second += gram(patches)

    @property
    def mean(self) -> Array:
        """E[x], [G, K]."""
        offset: Array = self.first / np.float32(max(self.count, 1))
        return offset if self.centre is None else self.centre + offset

    def covariance_of(self, group: int, centred: bool) -> Array:
        """E[x xᵀ] − E[x] E[x]ᵀ of one group, [K, K]: the metric of rounding errors whose mean a bias corrects.

        centred: False where no bias can correct the mean; then E[x xᵀ].
        """
        covariance: Array = self.second[group] / np.float32(max(self.count, 1))
        offset = self.first[group] / np.float32(max(self.count, 1))
        covariance -= offset[:, None] * offset
        if not centred:
            mean = self.mean[group]
            covariance += mean[:, None] * mean
        return covariance


def gram(patches: Array) -> Array:
    """XᵀX of patches [G, R, K]: [G, K, K]."""
    product: Array = np.matmul(patches.transpose(0, 2, 1), patches)
    return product


def moment_bytes(linear: Linear) -> int:
    """Bytes of the second moments of a layer."""
    return 4 * linear.groups * linear.depth**2


def fits_memory(linear: Linear) -> bool:
    """Whether a layer's second moments fit the budget: up to √(BUDGET / 4), 14,000 inputs."""
    return moment_bytes(linear) <= BUDGET


def gather(
    model: Model, layers: Sequence[tuple[Value, Linear]], feeds: Callable[[], Iterable[dict[str, Any]]], seed: int,
    enough: int = ENOUGH,
) -> Iterator[tuple[Linear, InputMoments]]:  # fmt: skip
    """Each layer with the moments of its input over the calibration data; a few layers in memory at a time.

    enough: patches per unknown, counting at least 1,024 unknowns; one sample supplies at most an eighth of the patches.
    """
    for part in portions(layers, lambda item: moment_bytes(item[1]), BUDGET):
        moments_of = {linear.node: InputMoments.empty(linear) for _, linear in part}
        needs = {linear.node: enough * max(1024, linear.depth) for _, linear in part}
        rng = np.random.default_rng(seed)
        values = list(dict.fromkeys(value for value, _ in part))
        for arrays in stream(model, values, feeds()):
            for value, linear in part:
                moments = moments_of[linear.node]
                if value in arrays and moments.count < needs[linear.node]:
                    moments.add(linear.patches(arrays[value], needs[linear.node] // 8, rng))
            if all(moments.count >= needs[node] for node, moments in moments_of.items()):
                break
        for _, linear in part:
            yield linear, moments_of.pop(linear.node)
