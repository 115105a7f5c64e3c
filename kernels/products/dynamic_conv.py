"""Preparation of dynamically quantized convolutions: DynamicQuantizeLinear, ConvInteger, Cast, Mul and Add."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.levels import Level
from graphopt.kernels.core.memory import Array
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.products.dynamic_matmul import extremes_step, joined_rows
from graphopt.kernels.products.epilogue import FloatOutput
from graphopt.kernels.products.matmul_conv import Activations, prepare_conv
from graphopt.kernels.tensors.windows import Image, Window, WindowRecord

QUANTIZE_IMAGE = Kernel(
    "graphopt.kernels.loops.products.dynamic_quantize:quantize_image",
    {
        "x": "i64", "y": "i64", "row_scales": "f32*", "row_zeros": "i32*", "ranges": "f32*",
        **dict.fromkeys(
            ("lines", "height", "row", "top", "left", "padded_height", "padded_row", "pixels", "tiles"), "i64"
        ),
    },
)  # fmt: skip


DEPTHWISE = Kernel(
    "graphopt.kernels.loops.products.dynamic_depthwise:depthwise_floats",
    {
        "x": "u8*", "y": "f32*", **dict.fromkeys(("weights", "scales", "bias", "row_scales"), "f32*"),
        "row_zeros": "i32*", "low": "f32", "high": "f32", "window": WindowRecord,
    },
)  # fmt: skip
_MOST_TAPS = 2**24 // 255**2  # products of codes whose sum float32 holds exactly


def prepare_dynamic_conv(
    image: Image, window: Window, weights: Array, weight_scale: float | Array, *, bias: Array | None = None,
    weight_zero_point: int | Array = 0, groups: int = 1, limits: Sequence[float] = (-np.inf, np.inf),
    level: Level | None = None,
) -> Routine:  # fmt: skip
    """float32 NHWC images in buffer `floats` → y [N, OH, OW, O] = clamp(float32(acc) · (x_scale · scale) + bias).

    acc is ConvInteger of the images quantized as DynamicQuantizeLinear does, all with one scale, and of s8 or u8
    `weights` [O, C / groups, KH, KW]. Padding is real zero, which is the zero point. `weight_scale` and `bias` are
    float32, of one value or one for each output channel.
    """
    outputs = len(weights)
    top, left, bottom, right = window.pads
    padded = (image.height + top + bottom, image.width + left + right)
    out = window.output(image)
    pixels = out.batch * out.height * out.width
    if image.size == 0 or pixels * outputs == 0:
        return Routine(())
    lines, length = joined_rows(image.batch * image.height, image.width * image.channels)
    tiles = image.batch * padded[0]
    quantize: dict[str, Argument] = {
        "x": Buffer("floats"), "y": Buffer("x"), "row_scales": Buffer("row_scales"), "row_zeros": Buffer("row_zeros"),
        "ranges": Buffer("ranges"), "lines": lines, "height": image.height, "row": image.width * image.channels,
        "top": top, "left": left * image.channels, "padded_height": padded[0],
        "padded_row": padded[1] * image.channels, "pixels": pixels, "tiles": tiles,
    }  # fmt: skip
    scale = np.broadcast_to(np.asarray(weight_scale, np.float32).reshape(-1), (outputs,))
    added = None if bias is None else np.broadcast_to(bias.reshape(-1), (outputs,))
    low, high = float(limits[0]), float(limits[1])
    if groups == image.channels == outputs > 1 and window.taps <= _MOST_TAPS:
        product = _depthwise(
            Image(image.batch, *padded, outputs), out, window, (weights, weight_zero_point), scale, added, (low, high)
        )
    else:
        product = prepare_conv(
            (image.batch, *padded, image.channels), weights, Activations(np.uint8),
            FloatOutput(scale, added, low, high, dynamic=True), weight_zero_point=weight_zero_point,
            strides=window.strides, dilations=window.dilations, groups=groups, level=level,
        )  # fmt: skip
    steps = (
        extremes_step(Buffer("floats"), lines, length),
        Step(QUANTIZE_IMAGE, quantize, tiles=tiles, grain=4),
        *product.steps,
    )
    temporaries = {
        **product.temporaries, "x": image.batch * padded[0] * padded[1] * image.channels, "ranges": 8 * lines,
        "row_scales": 4 * pixels, "row_zeros": 4 * pixels,
    }  # fmt: skip
    return Routine(steps, temporaries, product.packed_bytes)


def _depthwise(
    image: Image, out: Image, window: Window, weights: tuple[Array, int | Array], scale: Array, bias: Array | None,
    limits: tuple[float, float],
) -> Routine:  # fmt: skip
    """A convolution with one input channel for each output channel; `image` includes its border."""
    codes, zero_point = weights
    centred = codes[:, 0].astype(np.float32) - np.reshape(zero_point, (-1, 1, 1)).astype(np.float32)
    packed = np.ascontiguousarray(centred.transpose(1, 2, 0))
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"), "weights": packed, "scales": np.ascontiguousarray(scale),
        "bias": np.zeros(len(codes), np.float32) if bias is None else np.ascontiguousarray(bias, np.float32),
        "row_scales": Buffer("row_scales"), "row_zeros": Buffer("row_zeros"), "low": limits[0], "high": limits[1],
        "window": Window(window.kernel, window.strides, window.dilations).record(image),
    }  # fmt: skip
    macs = out.size * window.taps
    return Routine((Step(DEPTHWISE, arguments, tiles=out.batch * out.height, macs=macs),), {}, packed.nbytes)
