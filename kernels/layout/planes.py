"""Preparation of the borders of a region: float32 planes to 8-bit pixels and back, in one pass."""

from __future__ import annotations

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.quantization import Quantization

_LOOPS = "graphopt.kernels.loops.layout.planes:"
_PIXELS = 512
_SCRATCH = 8 * _PIXELS
_SIZES = dict.fromkeys(("images", "pixels", "channels"), "i64")
_CODES = {"scale": "f32", "zero_point": "i64"}


def prepare_quantize_planes(images: int, channels: int, pixels: int, y: Quantization) -> Routine:
    """QuantizeLinear of x float32 [images, channels, pixels] to y u8 or s8 [images, pixels, channels]."""
    fields = {"x": "f32*", "y": "u8*", **_SIZES, **_CODES, "least": "i64", "greatest": "i64"}
    fields |= {"scratch": "i64", "scratch_bytes": "i64"}
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "images": images, "pixels": pixels, "channels": channels, "scale": y.scale,
        "zero_point": y.zero_point, "least": y.low, "greatest": y.high,
        "scratch": SCRATCH, "scratch_bytes": _SCRATCH,
    }  # fmt: skip
    kernel = Kernel(_LOOPS + "quantize_planes", fields)
    return Routine((Step(kernel, arguments, images * -(-pixels // _PIXELS), scratch=_SCRATCH),))


def prepare_dequantize_planes(images: int, channels: int, pixels: int, x: Quantization) -> Routine:
    """DequantizeLinear of x u8 or s8 [images, pixels, channels] to y float32 [images, channels, pixels]."""
    fields = {"x": x.kind, "y": "f32*", **_SIZES, **_CODES}
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "images": images, "pixels": pixels, "channels": channels, "scale": x.scale,
        "zero_point": x.zero_point,
    }  # fmt: skip
    return Routine((Step(Kernel(_LOOPS + "dequantize_planes", fields), arguments, images * -(-pixels // _PIXELS)),))
