"""First and second moments of the input of each linear operator, from which its weights are rounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...calibration import numbers, portions, stream
from ...ir import Array, Model, Value
from .covariance import Covariance, FewRows
from .linear import PRODUCTS, Linear

BUDGET = 3 << 28
"""Bytes of second moments gathered in one pass over the data; more layers take more passes. A bound on memory, not
tuned; `python -m tests.bench.quantize_time` shows the cost of passes."""
WORKING = 5
"""Matrices of the size of a layer's second moments that rounding takes at once: its covariance, a factor in single and
in double precision, and those that are gathered for the next layer."""
TOGETHER = 3 << 28
"""Bytes of gathered moments and of these matrices, where a quarter of `BUDGET` for moments leaves room: 0.75 GiB."""
MANY = 2048
"""Inputs of a layer above which few patches are kept themselves; rows of larger matrices that are computed at once."""
ENOUGH = 2
"""Patches gathered for each unknown of a layer: with fewer than one, second moments are singular. The factor is a
choice; `python -m tests.bench.zoo_int8` shows its effect on accuracy, `tests.bench.quantize_time` on time."""


@dataclass(slots=True)
class InputMoments:
    """Sums over a layer's patches x: their number, Σ (x − c) [G, K] and Σ (x − c)(x − c)ᵀ [G, K, K], in float32.

    The centre c [G, K] is the mean of the first patches: without it, float32 would lose small variations beside a large
    mean, and with them the positive definiteness that rounding needs. is_spent: no other layer reads these moments, so
    that each covariance takes the place of its sums. kept: of more than `MANY` inputs the patches less the centre, with
    the times that each counts, while they are a quarter of the inputs at most; until then there are no second sums.
    `NormalEquations` sums about zero, in float64: sums rounded otherwise give other weights, so the two share patches
    and `add_gram`, not their sums.
    """

    count: int
    first: Array
    second: Array
    centre: Array | None = None
    is_spent: bool = False
    kept: list[tuple[Array, int]] = field(default_factory=list)

    @classmethod
    def empty(cls, linear: Linear) -> InputMoments:
        """Sums over no patches."""
        groups, depth = linear.groups, linear.depth
        size = 0 if depth > MANY else depth
        return cls(0, np.zeros((groups, depth), np.float32), np.zeros((groups, size, size), np.float32))

    def add(self, patches: Array, times: int = 1) -> None:
        """Add patches [G, R, K] to the sums, each so many times, without those that hold NaN, infinite or mask
        values."""
        kept = numbers(patches)
        if kept is not None:
            patches = patches[:, kept.all(axis=(0, 2))]
        if not patches.shape[1]:
            return
        if self.centre is None:
            self.centre = patches.mean(axis=1, dtype=np.float64).astype(np.float32)
        patches = patches - self.centre[:, None]
        self.count += times * patches.shape[1]
        self.first += times * patches.sum(axis=1)
        self._sum(patches, times)

    def _sum(self, patches: Array, times: int) -> None:
        depth = patches.shape[2]
        if not self.second.shape[1]:
            self.kept.append((patches, times))
            if 4 * sum(kept.shape[1] for kept, _ in self.kept) <= depth:
                return
            self.second = np.zeros((len(patches), depth, depth), np.float32)
            while self.kept:
                add_gram(self.second, *self.kept.pop(0))
        else:
            add_gram(self.second, patches, times)

    @property
    def mean(self) -> Array:
        """E[x], [G, K]."""
        offset: Array = self.first / np.float32(max(self.count, 1))
        return offset if self.centre is None else self.centre + offset

    def covariance_of(self, group: int, centred: bool) -> Covariance:
        """E[x xᵀ] − E[x] E[x]ᵀ of one group, [K, K]: the metric of rounding errors whose mean a bias corrects.

        centred: False where no bias can correct the mean; then E[x xᵀ].
        """
        if self.kept:
            offset = self.first[group] / np.float32(self.count)
            zero = offset if centred else offset - self.mean[group]
            shares = [np.float32(np.sqrt(times / self.count)) for _, times in self.kept]
            return FewRows(np.concatenate([(x[group] - zero) * share for (x, _), share in zip(self.kept, shares)]))
        sums = self.second[group]
        covariance: Array = np.divide(sums, np.float32(max(self.count, 1)), out=sums if self.is_spent else None)
        offset = self.first[group] / np.float32(max(self.count, 1))
        covariance -= offset[:, None] * offset
        if not centred:
            mean = self.mean[group]
            covariance += mean[:, None] * mean
        return covariance


def add_gram(sums: Array, patches: Array, times: int = 1) -> None:
    """Add XᵀX of patches [G, R, K], so many times, to sums [G, K, K], without a second matrix where that is large."""
    if sums.shape[1] <= MANY:
        products = np.matmul(patches.transpose(0, 2, 1), patches)
        sums += products if times == 1 else times * products
        return
    for own, x in zip(sums, patches):
        for at in range(0, len(own), MANY):
            own[at : at + MANY, at:] += times * (x[:, at : at + MANY].T @ x[:, at:])
        mirror(own)


def mirror(matrix: Array) -> None:
    """Copy the upper triangle of a matrix [K, K] to the lower."""
    for at in range(0, len(matrix), MANY):
        strip = matrix[at : at + MANY]
        strip[:, :at] = matrix[:at, at : at + MANY].T
        own = strip[:, at : at + MANY]
        own[...] = np.triu(own) + np.triu(own, 1).T


def moment_bytes(linear: Linear) -> int:
    """Bytes of the second moments of a layer."""
    return 4 * linear.groups * linear.depth**2


def fits_memory(linear: Linear) -> bool:
    """Whether a layer's second moments fit the budget: up to √(BUDGET / 4), 14,000 inputs."""
    return moment_bytes(linear) <= BUDGET


def gather(
    model: Model, layers: Sequence[tuple[Value, Linear]], feeds: Callable[[], Iterable[tuple[dict[str, Any], int]]],
    seed: int, enough: int = ENOUGH,
) -> Iterator[tuple[Linear, InputMoments]]:  # fmt: skip
    """Each layer with the moments of its input over the calibration data; a few layers in memory at a time.

    feeds: with the number of times that each counts. enough: patches for each unknown, and for 1,024 unknowns where a
    layer has fewer; an eighth of them from a sample at most. Products of one input share its moments.
    """
    widest = max((moment_bytes(linear) for _, linear in layers), default=0)
    room = max(min(BUDGET, TOGETHER - WORKING * widest), BUDGET // 4)
    for part in portions(layers, lambda item: moment_bytes(item[1]), room):
        readers = {_patches_of(value, linear): (value, linear) for value, linear in part}
        moments_of = {key: InputMoments.empty(linear) for key, (_, linear) in readers.items()}
        needs = {key: enough * max(1024, linear.depth) for key, (_, linear) in readers.items()}
        rng, times = np.random.default_rng(seed), list[int]()

        def counted(times: list[int] = times) -> Iterator[dict[str, Any]]:
            for feed, count in feeds():
                times[:] = [count]
                yield feed

        values = list(dict.fromkeys(value for value, _ in part))
        for arrays in stream(model, values, counted()):
            for key, (value, linear) in readers.items():
                moments = moments_of[key]
                if value in arrays and moments.count < needs[key]:
                    moments.add(linear.patches(arrays[value], needs[key] // 8, rng), *times)
            if all(moments.count >= needs[key] for key, moments in moments_of.items()):
                break
        readings = Counter(_patches_of(value, linear) for value, linear in part)
        for value, linear in part:
            key = _patches_of(value, linear)
            moments_of[key].is_spent = readings[key] == 1
            yield linear, moments_of.pop(key) if readings[key] == 1 else moments_of[key]


def _patches_of(value: Value, linear: Linear) -> object:
    """What tells the patches of a layer from others: those of products are the rows of their input."""
    return value if linear.node.op in PRODUCTS else linear.node
