"""Per-channel activations at no cost: scales a channel where floats are quantized, folded into adjacent weights.

x_c = s_c (code_c − z_c). Integer operators take one scale q and zero point z for all channels, so a convolution between
such codes reads x' = q (code − z), where x = T x' + d with T = diag(s / q), d_c = s_c (z − z_c), and T and d fold into
it:

    W' = T_out⁻¹ W T_in        b' = T_out⁻¹ (b + W d_in − d_out)

while QuantizeLinear and DequantizeLinear between floats and codes take scales along an axis themselves. One scale for
all channels wastes most of the codes where channels are uneven, as around depthwise convolutions (Nagel et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ....compress.layers.linear import Linear
from ....ir import Array, Constant
from ....kernels.tensors.quantization import Quantization
from ...fold.weights import scale_conv_inputs

LEAST = 0.03
"""The narrowest range of a channel, relative to the widest: unseen samples may exceed the observed range. Tuned
together with `ENOUGH` of per_channel_activations; `python -m tests.bench.zoo_int8 silero-openvino` shows the effect."""
LONG = 16
"""Contiguous elements of a channel from which onnxruntime's loops over channels cost next to nothing; shorter runs cost
65 ns an element. `python -m tests.bench.zoo_int8 silero-openvino` shows the effect."""
SHARE = 0.85
"""The exponent of the channels' ranges in their scales, where weights share scales across channels: 1 gives every
channel all codes and makes the weights as uneven as the channels were; 0 gives one scale.
`python -m tests.bench.zoo_int8 rapidocr-rec` shows the effect."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGrid:
    """scale f32 [C] and zero i64 [C] of the channels along axis 1 of `rank`; base: the grid that integer operators see.

    run: contiguous elements of a channel in a sample.
    """

    scale: Array
    zero: Array
    base: Quantization
    rank: int
    run: int = LONG

    @property
    def is_long(self) -> bool:
        """Whether operators that take scales along an axis are as fast as with one scale."""
        return self.run >= LONG

    @property
    def gain(self) -> Array:
        """T, f64 [C]: x = gain · x' + lift."""
        return np.asarray(self.scale.astype(np.float64) / self.base.scale)

    @property
    def lift(self) -> Array:
        """d, f64 [C]."""
        return np.asarray(self.scale.astype(np.float64) * (self.base.zero_point - self.zero))


def channel_grid(
    low: Array, high: Array, energy: Array, shape: Sequence[int], *, signed: bool, one_zero: bool, mixed: bool
) -> ChannelGrid:
    """Cover [low, high] ∋ 0 of each channel, f64 [C], of values of this shape, [N, C, …].

    energy: of the weights that read each channel, [C]. one_zero: all channels share one zero point, as padding with
    zeros requires: that of least noise Σ energy_c s_c². mixed: readers sum over channels, with one scale for the
    weights of one sum. Then `SHARE` brings the scales closer together: even channels make uneven weights (SmoothQuant,
    Xiao et al. 2023).
    """
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    floor = max(float((high - low).max(initial=0.0)) * LEAST, 1e-20)
    high = np.where(high - low < floor, low + floor, high)
    shared: int | None = None
    if signed:
        scale, zero = np.maximum(-low, high) / 127, np.zeros(len(low), np.int64)
    elif one_zero:
        scale, shared = _one_zero(low, high, energy)
        zero = np.full(len(low), shared, np.int64)
    else:
        zero = np.clip(np.rint(-low / ((high - low) / 255)), 0, 255).astype(np.int64)
        scale = _covering(low, high, zero)
    if mixed:
        drawn = scale**SHARE
        wider = drawn * (scale / drawn).max()
        zero = zero if shared is not None else np.rint(zero * (scale / wider)).astype(np.int64)
        scale = wider
    if shared is None:
        shared = 0 if signed else int(np.rint(np.median(zero)))
    whole = float(np.float32(np.exp(np.log(scale).mean())))
    base = Quantization(whole, shared, signed)
    return ChannelGrid(scale.astype(np.float32), zero, base, len(shape), math.prod(shape[2:]))


def _covering(low: Array, high: Array, zero: Array) -> Array:
    """The least scales [C] at which u8 codes with these zero points reach both ends."""
    above = np.where(zero < 255, high / np.maximum(255 - zero, 1), 0.0)
    below = np.where(zero > 0, -low / np.maximum(zero, 1), 0.0)
    return np.asarray(np.maximum(above, below))


def _one_zero(low: Array, high: Array, energy: Array) -> tuple[Array, int]:
    """Scales [C] and the common zero point of least noise."""
    costs: list[tuple[float, int, Array]] = []
    for zero in range(256):
        if (zero == 0 and low.any()) or (zero == 255 and high.any()):
            continue
        scale = _covering(low, high, np.full(len(low), zero))
        costs.append((float(energy @ (scale * scale)), zero, scale))
    _, zero, scale = min(costs, key=lambda item: item[:2])
    return scale, zero


def channel_energy(linear: Linear) -> Array:
    """Σ w² over the weights of a convolution that read each input channel, [C]."""
    squares = linear.weight.astype(np.float64) ** 2
    split = squares.reshape(linear.groups, -1, *squares.shape[1:])
    return np.asarray(split.sum(axis=(1, *range(3, split.ndim))).reshape(-1))


def fold_channel_scales(linear: Linear, read: ChannelGrid | None, written: ChannelGrid | None) -> Linear:
    """The convolution as a map from x' to y' instead of from x to y; read, written: None where x' = x, y' = y."""
    if read is not None:
        node, kernel, rest = linear.node, linear.weight, tuple(range(1, linear.weight.ndim))
        shift = scale_conv_inputs(node, kernel, read.lift).sum(axis=rest)
        weight = scale_conv_inputs(node, kernel, read.gain).astype(np.float32)
        linear = _with_bias(replace(linear, constant=Constant.of(weight), rescaled=(read.gain, read.lift)), shift)
    if written is not None:
        linear = _with_bias(linear, -written.lift)
        rows = linear.weight / written.gain.reshape(-1, *(1,) * (linear.weight.ndim - 1))
        bias = None if linear.bias is None else (linear.bias / written.gain).astype(np.float32)
        linear = replace(linear, constant=Constant.of(rows.astype(np.float32)), bias=bias)
    return linear


def _with_bias(linear: Linear, more: Array) -> Linear:
    if not more.any():
        return linear
    return replace(linear, bias=(more if linear.bias is None else linear.bias + more).astype(np.float32))
