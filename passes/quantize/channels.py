"""Codes with a scale and a zero point a channel, at no cost: where floats are quantized and in weights that are folded.

x_c = s_c (code_c − z_c). Integer operators take one scale q and zero point z for all channels, so linear operators see
x' = q (code − z), and x = T x' + d with T = diag(s / q), d_c = s_c (z − z_c):

    W x + b = (W T) x' + (b + W d)         what reads x: its weights take T, its bias d (only without padding)
    x' = T⁻¹ (y − d)                       what makes x: scales of its weights and its bias take both
    QuantizeLinear, DequantizeLinear       take scales along an axis themselves, as fast as one

One scale for all channels of a depthwise convolution's input wastes half of the bits where channels are uneven.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...calibration import Taps
from ...ir import Model, Node, TensorType, Value
from ...kernels.quantization import Quantization
from ...ops import attr
from .linear import Linear
from .units import BINARY, FUNCTIONS, Unit

Array = np.ndarray[Any, Any]
HEADROOM = 2.0
"""The most by which a range exceeds what was seen."""
LEAST = 1e-3
"""The narrowest range of a channel, relative to the widest: what was never seen may yet come."""
SHARE = 0.85
"""The power of the channels' ranges that their scales follow where weights share scales across them: on rapidocr-rec's
layers 0.7 to 1 gives the least noise in results, and 0.85 is within 0.2 dB of it on each."""
DEAD = -3.0
"""HardSwish, x · HardSigmoid(x), gives 0 from here down: what is below needs no codes."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGrid:
    """scale f32 [C] and zero i64 [C] of the channels along `axis`; base: what integer operators see."""

    scale: Array
    zero: Array
    axis: int
    base: Quantization

    @property
    def gain(self) -> Array:
        """T, f64 [C]: x = gain · x' + lift."""
        made: Array = self.scale.astype(np.float64) / self.base.scale
        return made

    @property
    def lift(self) -> Array:
        """d, f64 [C]."""
        made: Array = self.scale.astype(np.float64) * (self.base.zero_point - self.zero)
        return made


def channel_grid(low: Array, high: Array, weights: Array, axis: int, *, signed: bool, shared: bool) -> ChannelGrid:
    """Cover [low, high] ∋ 0 of each channel [C].

    shared: all zero points are one, as padding with zeros asks for: that of least noise Σ weights_c s_c².
    """
    low, high = np.minimum(low, 0.0).astype(np.float64), np.maximum(high, 0.0).astype(np.float64)
    floor = max(float((high - low).max(initial=0.0)) * LEAST, 1e-20)
    high = np.where(high - low < floor, low + floor, high)
    if signed:
        scale, zero, middle = np.maximum(-low, high) / 127, np.zeros(len(low), np.int64), 0
    elif not shared:
        scale = (high - low) / 255
        zero = np.clip(np.rint(-low / scale), 0, 255).astype(np.int64)
        ends = (
            np.where(zero < 255, high / np.maximum(255 - zero, 1), 0),
            np.where(zero > 0, -low / np.maximum(zero, 1), 0),
        )
        scale, middle = np.maximum(*ends), int(np.rint(np.median(zero)))
    else:
        scale, middle = _one_zero(low, high, weights)
        zero = np.full(len(low), middle, np.int64)
    whole = np.float32(np.exp(np.log(scale).mean()))
    return ChannelGrid(scale.astype(np.float32), zero, axis, Quantization(float(whole), middle, signed))


def _one_zero(low: Array, high: Array, weights: Array) -> tuple[Array, int]:
    """Scales [C] under the zero point that costs least."""
    costs: list[tuple[float, int, Array]] = []
    for zero in range(256):
        if (zero == 0 and low.any()) or (zero == 255 and high.any()):
            continue
        above = high / (255 - zero) if zero < 255 else np.zeros_like(high)
        scale = np.maximum(above, -low / zero if zero else 0.0)
        costs.append((float(weights @ (scale * scale)), zero, scale))
    _, zero, scale = min(costs, key=lambda item: item[:2])
    return scale, zero


def balanced(grid: ChannelGrid) -> ChannelGrid:
    """The grid with its channels' scales drawn together by a seventh: even channels make uneven weights, of which all
    that one output sums share one scale (SmoothQuant, Xiao et al. 2023)."""
    drawn = grid.scale.astype(np.float64) ** SHARE
    scale = drawn * (grid.scale / drawn).max()
    zero = grid.zero
    if len(np.unique(zero)) > 1:
        zero = np.rint(zero * (grid.scale / scale)).astype(np.int64)
    middle = int(np.rint(np.median(zero)))
    whole = float(np.float32(np.exp(np.log(scale).mean())))
    return ChannelGrid(scale.astype(np.float32), zero, grid.axis, Quantization(whole, middle, grid.base.signed))


def evicted(units: frozenset[Unit]) -> frozenset[Unit]:
    """The units without arithmetic one operand of which is float anyway, like the Mul of HardSwish: it goes on as
    float, so that what it reads and makes can have channels of its own."""
    while True:
        made = {v for u in units for v in u.outputs if not u.may_end_float}
        read = {v for u in units for v in u.inputs}
        out = {u for u in units if u.node.op in BINARY and any(v not in made for v in u.inputs)}
        out |= {u for u in units if u.node.op in FUNCTIONS and not any(v in read for v in u.outputs)}
        if not out:
            return units
        units = units - out


def eligible(units: Collection[Unit]) -> dict[Value, int]:
    """Values that only linear units read and make as codes, with the axis of their channels."""
    others = {v for u in units if u.linear is None for v in (*u.inputs, *u.outputs)}
    layers = [u for u in units if u.linear is not None]
    found: dict[Value, int] = {}
    for unit in layers:
        found.setdefault(unit.inputs[0], 1 if unit.node.op == "Conv" else -1)
        if unit.node.op == "Conv":
            found.setdefault(unit.output, 1)
    made = {u.output: u for u in layers}
    readers: dict[Value, list[Unit]] = {}
    for unit in layers:
        readers.setdefault(unit.inputs[0], []).append(unit)
    kept = {}
    for value, axis in found.items():
        maker = made.get(value)
        kinds = {1 if u.node.op == "Conv" else -1 for u in readers.get(value, ())}
        if value in others or len(kinds) > 1 or _rank(value) is None:
            continue
        if maker is not None and (maker.node.op != "Conv" or kinds == {-1}):
            continue
        if maker is not None and maker.clamp is not None and maker.limits != (0.0, np.inf):
            continue
        kept[value] = axis if axis >= 0 else (_rank(value) or 1) - 1
    return kept


def _rank(value: Value) -> int | None:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    return None if not shape else len(shape)


def needs_one_zero(value: Value, units: Iterable[Unit]) -> bool:
    """Padding puts x = 0 beside the channels, and only a bias takes up shifts; a clamp's zero is every channel's."""
    for unit in units:
        if unit.linear is None:
            continue
        if value in unit.inputs and (not unit.linear.takes_bias or _is_padded(unit.node)):
            return True
        if value in unit.outputs and unit.clamp is not None:
            return True
    return False


def _is_padded(node: Node) -> bool:
    if node.op != "Conv":
        return False
    return str(attr(node, "auto_pad", "NOTSET")) not in ("NOTSET", "VALID") or any(attr(node, "pads", None) or ())


def reach(model: Model, values: dict[Value, int], feeds: Iterable[dict[str, Any]]) -> dict[Value, tuple[Array, Array]]:
    """The range [low, high] of each channel over all samples, with headroom: the next record is likely as far from the
    largest as that is from the second."""
    taps = Taps(model, list(values))
    found: dict[Value, list[Array]] = {}
    for feed in feeds:
        for value, array in taps.run(feed).items():
            others = tuple(i for i in range(array.ndim) if i != values[value])
            for sign, peak in enumerate((-array.min(axis=others), array.max(axis=others))):
                peak = np.maximum(peak, 0.0).astype(np.float64)
                first, second = found.setdefault(value, [np.zeros_like(peak)] * 4)[2 * sign : 2 * sign + 2]
                found[value][2 * sign : 2 * sign + 2] = (
                    np.maximum(first, peak), np.maximum(np.minimum(first, peak), second)
                )  # fmt: skip
    return {value: (-_beyond(low, low2), _beyond(high, high2)) for value, (low, low2, high, high2) in found.items()}


def _beyond(first: Array, second: Array) -> Array:
    made: Array = np.minimum(2 * first - second, HEADROOM * first)
    return made


def is_hard_swish(value: Value) -> bool:
    """All that reads the value makes x · HardSigmoid(x) of it, which is 0 up to −3."""
    users = value.users
    gates = [n for n in users if n.op == "HardSigmoid" and _opens_at(n) >= DEAD]
    products = [n for n in users if n.op == "Mul"]
    if not gates or len(gates) + len(products) != len(users) or value.is_result:
        return False
    made = {gate.output for gate in gates}
    outside = any(node not in products for gate in gates for node in gate.output.users)
    return not outside and all(any(v in made for v in node.inputs) for node in products)


def energy(linear: Linear) -> Array:
    """Σ w² over the weights that each input channel [C] meets."""
    squares = linear.weight.astype(np.float64) ** 2
    if linear.node.op != "Conv":
        return np.asarray(squares.sum(axis=linear.axis))
    split = squares.reshape(linear.groups, -1, *squares.shape[1:])
    return np.asarray(split.sum(axis=(1, *range(3, split.ndim))).reshape(-1))


def _opens_at(node: Node) -> float:
    alpha, beta = float(attr(node, "alpha", 0.2)), float(attr(node, "beta", 0.5))
    return -beta / alpha if alpha > 0 else -np.inf


def seen_by(linear: Linear, grid: ChannelGrid) -> Linear:
    """The layer as a map of x' instead of x."""
    gain, lift = grid.gain, grid.lift
    if linear.node.op == "Conv":
        shape = (linear.groups, 1, -1, *(1,) * (linear.weight.ndim - 2))
        split = linear.weight.reshape(linear.groups, -1, *linear.weight.shape[1:])
        weight = (split * gain.reshape(shape)).reshape(linear.weight.shape)
        shift = (split.astype(np.float64) * lift.reshape(shape)).sum(axis=tuple(range(2, split.ndim))).reshape(-1)
    else:
        along = (-1, 1) if linear.axis == 1 else (1, -1)
        weight = linear.weight * gain.reshape(along)
        shift = (linear.weight.astype(np.float64) * lift.reshape(along)).sum(axis=1 - linear.axis)
    bias = linear.bias
    if linear.takes_bias and lift.any():
        bias = (shift if bias is None else bias + shift).astype(np.float32)
    return replace(linear, weight=np.ascontiguousarray(weight, np.float32), bias=bias, rescaled=(gain, lift))
