"""Weights of 3×3 convolutions before their transform: sums that bound a result, and the order the transform reads."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.memory import Array
from graphopt.kernels.core.steps import Argument, Step

_LOOPS = "graphopt.kernels.loops.winograd:"
_MEASURE = Kernel(
    _LOOPS + "measure_weights",
    {"w": "i64", "size": "i64", "positive": "i64*", "negative": "i64*", "least": "i8*", "greatest": "i8*"},
)
_PACK = Kernel(_LOOPS + "pack_plain", dict.fromkeys(("w", "y", "count", "channels", "depth", "width"), "i64"))


@dataclass(frozen=True, slots=True)
class WeightSums:
    """int64 sums of the positive and of the negative weights of each channel, and the largest magnitude of all."""

    positive: npt.NDArray[np.int64]
    negative: npt.NDArray[np.int64]
    largest: int


def weight_sums(weights: Array) -> WeightSums:
    """The sums of integer weights [O, …]."""
    count, size = len(weights), prod(weights.shape[1:])
    if weights.dtype != np.int8:
        flat = weights.reshape(count, size)
        positive, negative = (ends(flat, 0).sum(1, dtype=np.int64) for ends in (np.maximum, np.minimum))
        return WeightSums(positive, negative, int(np.abs(flat).max(initial=0)))
    weights = np.ascontiguousarray(weights)
    positive, negative = np.zeros(count, np.int64), np.zeros(count, np.int64)
    least, greatest = np.zeros(count, np.int8), np.zeros(count, np.int8)
    arguments: dict[str, Argument] = {
        "w": int(weights.ctypes.data), "size": size, "positive": positive,
        "negative": negative, "least": least, "greatest": greatest,
    }  # fmt: skip
    Step(_MEASURE, arguments, tiles=count).run()
    return WeightSums(positive, negative, max(int(greatest.max(initial=0)), -int(least.min(initial=0))))


def pack_plain(weights: npt.NDArray[np.int8], width: int, depth: int) -> npt.NDArray[np.int8]:
    """Weights [O, C, 3, 3] as int8 [panel][depth / 2][9][width][2], zeros beyond O and C: the transform's input."""
    count, channels = weights.shape[:2]
    weights = np.ascontiguousarray(weights)
    packed = np.zeros((-(-count // width), depth // 2, 9, width, 2), np.int8)
    arguments: dict[str, Argument] = {
        "w": int(weights.ctypes.data), "y": int(packed.ctypes.data), "count": count, "channels": channels,
        "depth": depth, "width": width,
    }  # fmt: skip
    Step(_PACK, arguments, tiles=len(packed)).run()
    return packed
