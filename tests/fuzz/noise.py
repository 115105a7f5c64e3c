"""The share of a difference that is rounding: results of the original when all its numbers change by their last bit.

`graphopt.compare` moves the inputs alone. Where a result is what is left of numbers that cancel, a rewrite that joins
two constants moves it by more than that, and so would any other rounding of the same constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

Array = np.ndarray[Any, Any]

TRIALS = 6
FACTOR = 10.0  # a few roundings, each as large as those tried


def moved(array: Array, rng: np.random.Generator) -> Array:
    """Every float element one step up or down; zeros stay."""
    if array.dtype.kind != "f":
        return array
    way = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
    return np.where(array == 0, array, np.nextafter(array, way)).astype(array.dtype)


def shaken(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """The model with every float constant of the root graph moved by its last bit."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(moved(numpy_helper.to_array(tensor), rng), tensor.name))
    for node in copy.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            held = numpy_helper.to_array(node.attribute[0].t)
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(moved(held, rng)))
    return copy


def within(a: Sequence[Array], b: Sequence[Array], others: Sequence[Sequence[Array]]) -> bool:
    """Float outputs differ by no more than `FACTOR` times what they do among `others`, the rest not at all."""
    if len(a) != len(b):
        return False
    for i, (x, y) in enumerate(zip(a, b)):
        if x.shape != y.shape or x.dtype != y.dtype:
            return False
        if x.dtype.kind != "f":
            if not np.array_equal(x, y):
                return False
            continue
        finite = np.isfinite(x) & np.isfinite(y)
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
            return False
        spread = max((_error(x, other[i], finite) for other in others), default=0.0)
        scale = float(np.abs(x[finite]).max(initial=0))
        if _error(x, y, finite) > max(FACTOR * spread, 1e-4 * scale):
            return False
    return True


def _error(x: Array, y: Array, where: Array) -> float:
    if x.shape != y.shape:
        return 0.0
    return float(np.abs(x[where].astype(np.float64) - y[where]).max(initial=0))
