"""Preparation of conversions at a region's borders: float32 NCHW planes to 8-bit NHWC pixels and back, in one pass."""

from __future__ import annotations

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.memory import Array
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.quantization import CodeRecord, Quantization

_LOOPS = "graphopt.kernels.loops.layout.planes:"
_PIXELS = 512  # of a tile, as the loop cuts them
_SCRATCH = 8 * _PIXELS  # bytes: the codes of eight channels of a tile
_SIZES = dict.fromkeys(("images", "pixels", "channels"), "i64")


QUANTIZE_PLANES = Kernel(
    _LOOPS + "quantize_planes",
    {"x": "f32*", "y": "u8*", **_SIZES, "qy": CodeRecord, "scratch": "i64", "scratch_bytes": "i64"},
)


def prepare_quantize_planes(images: int, channels: int, pixels: int, y: Quantization) -> Routine:
    """QuantizeLinear of x float32 [images, channels, pixels] to y u8 or s8 [images, pixels, channels]."""
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "images": images, "pixels": pixels, "channels": channels, "qy": y.record,
        "scratch": SCRATCH, "scratch_bytes": _SCRATCH,
    }  # fmt: skip
    return Routine((Step(QUANTIZE_PLANES, arguments, images * -(-pixels // _PIXELS), scratch=_SCRATCH),))


QUANTIZE_LINE_PLANES = Kernel(
    _LOOPS + "quantize_line_planes",
    {"x": "f32*", "y": "u8*", **_SIZES, "numbers": "f32*", "scratch": "i64", "scratch_bytes": "i64"},
)


def prepare_quantize_line_planes(images: int, pixels: int, numbers: Array) -> Routine:
    """x float32 [images, channels, pixels] → y [images, pixels, channels], as `prepare_quantize_lines` defines it.

    numbers: slope, shift, scale, zero point, low, high, each float32 [channels]; y u8 or s8, as the numbers say.
    """
    channels = numbers.shape[1]
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "images": images, "pixels": pixels, "channels": channels,
        "numbers": np.ascontiguousarray(numbers, np.float32), "scratch": SCRATCH, "scratch_bytes": _SCRATCH,
    }  # fmt: skip
    tiles = images * -(-pixels // _PIXELS) if channels else 0
    return Routine((Step(QUANTIZE_LINE_PLANES, arguments, tiles, scratch=_SCRATCH),))


def prepare_dequantize_planes(images: int, channels: int, pixels: int, x: Quantization) -> Routine:
    """DequantizeLinear of x u8 or s8 [images, pixels, channels] to y float32 [images, channels, pixels]."""
    kernel = Kernel(_LOOPS + "dequantize_planes", {"x": x.kind, "y": "f32*", **_SIZES, "qx": CodeRecord})
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "images": images, "pixels": pixels, "channels": channels, "qx": x.record,
    }  # fmt: skip
    return Routine((Step(kernel, arguments, images * -(-pixels // _PIXELS)),))
