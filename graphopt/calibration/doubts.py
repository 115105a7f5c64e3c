"""Calibration data unlike the model's training data: in other units, or a single sample."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..analysis.operands import shape_of, small_array
from ..equivalence.feeds import Feeds
from ..errors import ModelError
from ..ir import Array, Model, Node, Value
from ..ops import attr
from .activations import Taps
from .source import Calibration

SAMPLES = 8
"""Samples examined: pixels in other units show in the first, and each costs a run."""
FAR, NARROW = 10.0, 1 / 32
"""Root-mean-square distance from the running mean, in running standard deviations, above which data are doubted, and
the spread below which they are. Correct data have 1 for both, by definition of the statistics. Bytes in place of 0 to 1
scale both by 255, 0 to 1 in place of bytes by 1 / 255: each limit is far from both. Data normalised with other
constants than the training's (a factor of 4 for ImageNet's) are not doubted."""
WIDE = 32.0
"""Largest element behind the model's own normalization above which data are doubted. Correct data stay within 4.4 (1 /
0.229, ImageNet's smallest deviation), bytes in place of 0 to 1 start at 255: the limit lies between."""
ENOUGH = 16
"""Least elements per channel for a meaningful spread."""
_COLOURS = 4
"""Channels of an image with transparency: a normalisation moves each by a constant of its own."""
_PASSED = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_AFFINE = ("Add", "Div", "Mul", "Sub")


def doubts(model: Model, calibration: Calibration) -> tuple[str, ...]:
    """Reasons to doubt that calibration data are of the kind that `model` was trained on, one line each.

    The running statistics of the first BatchNormalization, and a normalisation of inputs in the graph itself, tell the
    units of the data; a model without either is not judged by them. At most 8 samples are read.
    """
    feeds = calibration.first(SAMPLES)
    found = []
    if len(feeds) == 1 and _rows(feeds[0]) == 1:
        found.append("calibration: one sample was given, and its ranges seldom hold for others: give 50 to 500")
    if calibration.prompts is not None:  # tokens, masks and caches have no units
        return tuple(found)
    inputs = {v: last for v in model.graph.inputs if (last := _normalised(v)) is not None}
    norm = next((n for n in model.graph if n.op == "BatchNormalization" and _has_statistics(n)), None)
    spreads = {last: _Spread() for last in inputs.values()}
    seen = None if norm is None else _Statistics(norm)
    if not spreads and seen is None:
        return tuple(found)
    with suppress(ModelError):  # a model that cannot run is reported elsewhere
        _read(model, feeds, spreads, seen)
    for value, last in inputs.items():
        found += [f"calibration: {value.name} {why}" for why in spreads[last].doubts()]
    if not any(spread.doubts() for spread in spreads.values()) and seen is not None:
        found += [f"calibration: the data {why}" for why in seen.doubts()]
    return tuple(found)


def _rows(feed: Feeds) -> int:
    """Number of samples in a feed: the first size, where all inputs agree on it."""
    sizes = {v.shape[0] if v.ndim > 1 else 1 for v in feed.values() if isinstance(v, np.ndarray)}
    return sizes.pop() if len(sizes) == 1 else 1


def _normalised(value: Value) -> Value | None:
    """The value after an input's initial sums and products with constants; None without any, and for scalars and lists,
    which are sizes and rates."""
    affine, current = False, value
    if len(shape_of(value) or ()) < 2:
        return None
    while current.has_one_use:
        (use,) = current.uses
        node = use.node
        if node.op in _AFFINE and small_array(node, 1 - use.slot) is not None and (node.op != "Div" or use.slot == 0):
            affine = True
        elif node.op not in _PASSED or use.slot != 0:
            break
        current = node.output
    return current if affine and current.graph is value.graph else None


def _has_statistics(node: Node) -> bool:
    small = all(small_array(node, slot) is not None for slot in (3, 4))
    return small and len(node.outputs) == 1 and not attr(node, "training_mode", 0)


def _read(model: Model, feeds: Iterable[Feeds], spreads: dict[Value, _Spread], seen: _Statistics | None) -> None:
    taps = Taps(model, [*spreads, *([] if seen is None else [seen.value])])
    for feed in feeds:
        values = taps.run(feed)
        for value, spread in spreads.items():
            if value in values:
                spread.add(values[value])
        if seen is not None and seen.value in values:
            seen.add(values[seen.value])


@dataclass(slots=True)
class _Spread:
    """The least and greatest element behind a normalization, per color channel of an image."""

    low: Any = np.inf
    high: Any = -np.inf

    def add(self, array: Array) -> None:
        if not array.size or array.dtype.kind != "f":
            return
        colours = next((a for a in (1, array.ndim - 1) if array.ndim > 2 and array.shape[a] <= _COLOURS), None)
        others = tuple(a for a in range(array.ndim) if a != colours)
        low, high = array.min(axis=others), array.max(axis=others)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)

    def doubts(self) -> list[str]:
        largest, range_ = float(np.max(np.abs([self.low, self.high]))), float(np.max(self.high - self.low))
        if not np.isfinite(largest):
            return []
        units = "may be in other units than the model's own normalisation takes"
        if largest > WIDE:
            return [f"{units}: behind it values reach {largest:.3g} (0 to 255 where 0 to 1 is meant?)"]
        if range_ < NARROW:
            return [f"{units}: behind it values differ by {range_:.2g} (0 to 1 where 0 to 255 is meant?)"]
        return []


@dataclass(slots=True)
class _Statistics:
    """Moments per channel of a BatchNormalization's input [N, C, …], beside its running statistics."""

    node: Node
    count: int = 0
    sums: Any = 0.0
    squares: Any = 0.0
    value: Value = field(init=False)
    mean: Array = field(init=False)
    deviation: Array = field(init=False)

    def __post_init__(self) -> None:
        value, mean, variance = self.node.inputs[0], small_array(self.node, 3), small_array(self.node, 4)
        assert value is not None and mean is not None and variance is not None
        self.value, self.mean = value, mean.astype(np.float64)
        epsilon = float(attr(self.node, "epsilon", 1e-5))
        self.deviation = np.sqrt(np.maximum(variance.astype(np.float64) + epsilon, 1e-12))

    def add(self, array: Array) -> None:
        if array.ndim < 2 or array.shape[1] != self.mean.size or not np.isfinite(array).all():
            return
        distance = np.moveaxis(array, 1, -1).reshape(-1, self.mean.size).astype(np.float64) - self.mean
        distance /= self.deviation
        self.count += len(distance)
        self.sums = self.sums + distance.sum(axis=0)
        self.squares = self.squares + np.square(distance).sum(axis=0)

    def doubts(self) -> list[str]:
        """Reasons by the median channel: a channel dead in training is far from its statistics with any data."""
        if not self.count:
            return []
        name = self.node.name or self.node.output.name or "the first BatchNormalization"
        units = f"may be in other units than in training: at {name}"
        mean_square = self.squares / self.count
        far = float(np.median(np.sqrt(mean_square)))
        spread = float(np.median(np.sqrt(np.maximum(mean_square - np.square(self.sums / self.count), 0.0))))
        if far > FAR and spread > NARROW:
            return [f"{units} they are {far:.3g} times as far from the running mean as its variance says"]
        if spread < NARROW and self.count >= ENOUGH:
            return [f"{units} they vary by {spread:.2g} of what its running variance says"]
        return []
