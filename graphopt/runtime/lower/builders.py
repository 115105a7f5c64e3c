"""Builders of convolution, product and pool operations from their operands, shared by all source forms."""

from __future__ import annotations

from dataclasses import replace
from typing import TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from ...errors import Declined
from ...ir import Array, Node, Value
from ...kernels.tensors.quantization import Quantization
from ...ops import attr
from .operands import Weights, constant_array, integer_bias, ints
from .operations import AveragePool, Clamp, Conv, ConvTranspose, LinearOperation, MatMul, MaxPool

_Linear = TypeVar("_Linear", bound=LinearOperation)


class WindowAttributes(TypedDict):
    """The attributes that ONNX's Conv and pools share, with defaults for absent ones."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    auto_pad: str


def window_attributes(node: Node, rank: int) -> WindowAttributes:
    """The window of a convolution or pool over `rank` spatial axes."""
    return {
        "strides": ints(node, "strides", (1,) * rank),
        "pads": ints(node, "pads", (0,) * 2 * rank),
        "dilations": ints(node, "dilations", (1,) * rank),
        "auto_pad": str(attr(node, "auto_pad", "NOTSET")),
    }


def conv(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, weights: Weights,
    bias: Value | None, y: Quantization | None, clamp: Clamp | None,
) -> Conv:  # fmt: skip
    """A convolution of codes with quantized weights, attributes from `node`; float32 where `y` is None."""
    rank = weights.codes.ndim - 2
    if rank not in (1, 2):
        raise Declined(f"a convolution over {rank} axes")
    scale = _per_channel(weights, 0, x)
    return Conv(
        inputs=(source,), output=output, nodes=nodes, x=x, weights=weights.codes,
        weight_zero_point=weights.one_zero_point, scale=scale, bias=integer_bias(bias, scale, len(scale)), y=y,
        clamp=clamp, groups=int(attr(node, "group", 1)), **window_attributes(node, rank),
    )  # fmt: skip


def conv_transpose(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, weights: Weights,
    bias: Value | None, y: Quantization | None, clamp: Clamp | None,
) -> ConvTranspose:  # fmt: skip
    """A transposed convolution of codes: y[s q + r − p] = Σ_m x[q − m] w[r + s m] for each remainder r below s.

    With m reversed, the s kernels, ceil(k / s) wide, form one convolution with stride 1.
    """
    window = window_attributes(node, 2)
    plain = window["auto_pad"] == "NOTSET" and {*window["dilations"]} == {1} and not node.attrs.get("output_shape")
    if weights.codes.ndim != 4 or not plain or attr(node, "group", 1) != 1:
        raise Declined("a transposed convolution of other than an image, in groups, dilated or of a given shape")
    strides, pads = window["strides"], window["pads"]
    extra, kernel = ints(node, "output_padding", (0, 0)), weights.codes.shape[2:]
    taps = [-(-size // stride) for size, stride in zip(kernel, strides)]
    phases = strides[0] * strides[1]
    scale = _per_channel(weights, 1, x)
    biases = integer_bias(bias, scale, len(scale))
    zero = weights.one_zero_point
    return ConvTranspose(
        inputs=(source,), output=output, nodes=nodes, x=x, weights=_by_phase(weights, strides, taps), y=y, clamp=clamp,
        weight_zero_point=zero if isinstance(zero, int) or zero.size == 1 else np.tile(zero, phases),
        scale=np.tile(scale, phases), bias=None if biases is None else np.tile(biases, phases),
        strides=(strides[0], strides[1]), pads=(taps[0] - 1, taps[1] - 1), begin=(pads[0], pads[1]),
        more=(
            extra[0] + kernel[0] - strides[0] - pads[0] - pads[2], extra[1] + kernel[1] - strides[1] - pads[1] - pads[3]
        ),
    )  # fmt: skip


def _by_phase(weights: Weights, strides: tuple[int, ...], taps: list[int]) -> Array:
    """Codes [C, O, k, l] as [s t O, C, ceil(k / s), ceil(l / t)], each phase reversed, filled up with zeros."""
    codes = weights.codes
    channels, outputs, height, width = codes.shape
    whole = np.empty((channels, outputs, taps[0] * strides[0], taps[1] * strides[1]), codes.dtype)
    whole[:] = weights.zero_point.reshape(1, -1, 1, 1)
    whole[:, :, :height, :width] = codes
    split = whole.reshape(channels, outputs, taps[0], strides[0], taps[1], strides[1])[:, :, ::-1, :, ::-1]
    phases = split.transpose(3, 5, 1, 0, 2, 4)
    return np.ascontiguousarray(phases.reshape(-1, channels, *taps))


def matmul(
    source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, weights: Weights, bias: Value | None,
    y: Quantization | None, clamp: Clamp | None,
) -> MatMul:  # fmt: skip
    """A product of codes with quantized weights [K, N]; float32 where `y` is None."""
    if weights.codes.ndim != 2:
        raise Declined(f"weights of {weights.codes.ndim} axes")
    scale = _per_channel(weights, 1, x)
    return MatMul(
        inputs=(source,), output=output, nodes=nodes, x=x, weights=weights.codes,
        weight_zero_point=weights.one_zero_point, scale=scale, bias=integer_bias(bias, scale, len(scale)), y=y,
        clamp=clamp,
    )  # fmt: skip


def _per_channel(weights: Weights, axis: int, x: Quantization) -> npt.NDArray[np.float32]:
    """float32 x scale · weight scale of each output channel; channels lie along `axis` of the weights."""
    if weights.axis not in (None, axis % weights.codes.ndim):
        raise Declined("weights quantized along another axis than their output channels")
    channels = weights.codes.shape[axis]
    if weights.scale.size not in (1, channels) or weights.zero_point.size not in (1, channels):
        raise Declined("weight scales that do not fit the output channels")
    return np.broadcast_to(np.float32(x.scale) * weights.scale, (channels,)).astype(np.float32)


def constant_bias(value: Value | None) -> Array | None:
    """A constant int32 bias in units of the accumulator, or None. Declined for any other bias."""
    bias = constant_array(value)
    if value is not None and (bias is None or bias.dtype != np.int32):
        raise Declined("a bias that is not constant")
    return bias


def with_bias(operation: _Linear, bias: Array | None) -> _Linear:
    """The operation with this bias, one number for all channels or one for each."""
    if bias is None:
        return operation
    if bias.size not in (1, len(operation.scale)):
        raise Declined("a bias that does not fit the output channels")
    return replace(operation, bias=np.broadcast_to(bias.reshape(-1), operation.scale.shape))


def check_unused_indices(node: Node) -> None:
    """Declined where MaxPool's second output, the indices, is read."""
    if len(node.outputs) > 1 and not node.outputs[1].is_unused:
        raise Declined("MaxPool whose indices are used")


def max_pool(node: Node, source: Value, output: Value, nodes: tuple[Node, ...], signed: bool) -> MaxPool:
    """MaxPool of codes, which keep their quantization."""
    kernel = ints(node, "kernel_shape", ())
    if len(kernel) not in (1, 2):
        raise Declined(f"a pool over {len(kernel)} axes")
    check_unused_indices(node)
    return MaxPool(
        inputs=(source,), output=output, nodes=nodes, signed=signed, kernel=kernel,
        ceil_mode=bool(attr(node, "ceil_mode", 0)), **window_attributes(node, len(kernel)),
    )  # fmt: skip


def average_pool(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, y: Quantization
) -> AveragePool:
    """AveragePool and GlobalAveragePool of codes, quantized or in QDQ form, with QLinearAveragePool's arithmetic."""
    if node.op_type in ("GlobalAveragePool", "QLinearGlobalAveragePool"):
        return AveragePool(inputs=(source,), output=output, nodes=nodes, x=x, y=y)
    kernel = ints(node, "kernel_shape", ())
    window = window_attributes(node, len(kernel))
    if len(kernel) not in (1, 2) or any(d != 1 for d in window["dilations"]):
        raise Declined("an average over other than one or two axes, or a dilated one")
    return AveragePool(
        inputs=(source,), output=output, nodes=nodes, x=x, y=y, kernel=kernel,
        count_include_pad=bool(attr(node, "count_include_pad", 0)), ceil_mode=bool(attr(node, "ceil_mode", 0)),
        **window,
    )  # fmt: skip
