"""QuantizeLinear and DequantizeLinear with one scale: a grid of floats, indexed by codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...analysis.operands import tensor_of
from ...ir import Array, DType, Node

_EXTRA = ("block_size", "output_dtype", "precision")


@dataclass(frozen=True, slots=True)
class Grid:
    """x = (code − zero) scale in float32 for codes of 8 bits; the scale is large enough for normal products."""

    scale: float
    zero: int
    dtype: np.dtype[Any]

    @property
    def lowest(self) -> int:
        """The least code."""
        return int(np.iinfo(self.dtype).min)

    @property
    def highest(self) -> int:
        """The greatest code."""
        return int(np.iinfo(self.dtype).max)

    def codes(self, x: Array) -> Array:
        """QuantizeLinear: saturate(round_half_even(x / scale) + zero)."""
        with np.errstate(over="ignore"):
            steps = np.rint(np.asarray(x, np.float32) / np.float32(self.scale)) + np.float32(self.zero)
        return np.asarray(np.clip(steps, self.lowest, self.highest).astype(self.dtype))

    def code(self, x: float) -> int:
        """The code of one number, which may be infinite."""
        return int(self.codes(np.array(x)))

    def holds(self, x: Array) -> bool:
        """Whether every number is on the grid."""
        return bool(np.array_equal(self.floats(self.codes(x)), np.asarray(x, np.float32)))

    def floats(self, codes: Array) -> Array:
        """DequantizeLinear."""
        return np.asarray((codes.astype(np.int32) - self.zero).astype(np.float32) * np.float32(self.scale))


def grid_of(node: Node) -> Grid | None:
    """The grid of a QuantizeLinear or DequantizeLinear; None for several scales, other types and unknown constants."""
    scale, zero = node.constant(1), node.constant(2)
    if node.domain or scale is None or scale.size != 1 or scale.dtype is not DType.FLOAT or len(scale.shape) > 1:
        return None
    if any(node.attrs.get(name) for name in _EXTRA) or (node.input(2) is not None and (zero is None or zero.size != 1)):
        return None
    step = float(scale.array().reshape(()))
    if not np.finfo(np.float32).tiny * 256 < step < np.inf:
        return None
    if zero is None:
        codes = tensor_of(node.inputs[0] if node.op == "DequantizeLinear" else node.output)
        dtype, offset = (None if codes is None else codes.dtype), 0
    else:
        dtype, offset = zero.dtype, int(zero.array().reshape(()))
    return Grid(step, offset, dtype.numpy) if dtype in (DType.INT8, DType.UINT8) else None
