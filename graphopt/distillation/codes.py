"""Weights stored as codes, for quantization-aware training: floats behind fake quantization during training, codes
again in the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ModelError
from ..gradient.differentiate import named_values
from ..ir import Array, Constant, DType, Model, Node, TensorType, Value

_BIAS = DType.INT32
"""The type of stored biases, to which QuantizeLinear cannot quantize: they are trained as floats."""
_NARROW = (2, 3, 4)
"""Bits of the sub-byte grids of weights."""
_EDGE = 0.49
"""How far beyond the last code a float may move, in codes: it still rounds to that code, and still has a gradient."""


@dataclass(frozen=True, slots=True)
class Codes:
    """The grid of a weight stored as codes.

    scale, zero: broadcastable to the codes, f64. dtype: of the codes. low, high: the least and greatest code that
    training may reach, broadcastable, f64: of `dtype`, or of the narrower grid that holds all codes.
    """

    scale: Array
    zero: Array
    dtype: DType
    low: Array
    high: Array

    @property
    def is_narrower(self) -> bool:
        """Whether the codes lie on a grid of fewer bits than their type."""
        return self.low.ndim > 0

    def floats(self, codes: Array) -> Array:
        """s (q − z)"""
        return (self.scale * (codes.astype(np.float64) - self.zero)).astype(np.float32)

    def codes(self, floats: Array) -> Array:
        """clip(round(x / s) + z, low, high), in single precision as QuantizeLinear computes it"""
        ratio = np.rint(floats.astype(np.float32) / self.scale.astype(np.float32)).astype(np.float64)
        return np.clip(ratio + self.zero, self.low, self.high).astype(self.dtype.numpy)

    def edges(self) -> tuple[Array, Array]:
        """The least and greatest float that round to codes of the grid, f32."""
        low, high = self.scale * (self.low - _EDGE - self.zero), self.scale * (self.high + _EDGE - self.zero)
        return low.astype(np.float32), high.astype(np.float32)


def with_floats(model: Model) -> dict[str, Codes]:
    """Replace stored codes by float weights behind fake quantization; returns each weight's grid by name.

    The floats have the codes' names. Edits `model`. Codes with readers other than one DequantizeLinear stay unchanged.
    """
    found: dict[str, Codes] = {}
    graph = model.graph
    for node in graph.snapshot():
        constant = node.constant(0) if node.op == "DequantizeLinear" else None
        value = node.input(0)
        if constant is None or value is None or not constant.dtype.is_integer or not value.name:
            continue
        if not value.has_one_use or node.constant(1) is None or not isinstance(node.output.type, TensorType):
            continue
        if node.output.type.dtype is not DType.FLOAT:
            continue
        stored = _stored(node, constant)
        floats = Value(constant=Constant.of(stored.floats(constant.array())))
        floats.name = value.name
        if constant.dtype is _BIAS:
            graph.replace_uses(node.output, floats)
            graph.erase(node)
        else:
            scale, zero = node.input(1), node.input(2)
            if zero is None:  # without a zero point, QuantizeLinear gives unsigned codes
                shape = getattr(scale.type, "sizes", ()) if scale is not None else ()
                zero = Value(constant=Constant.of(np.zeros(shape, constant.dtype.numpy), constant.dtype))
            attrs: dict[str, Any] = {name: v for name, v in node.attrs.items() if name in ("axis", "block_size")}
            inside = _limited(node, floats, stored) if stored.is_narrower else floats
            made = Node("QuantizeLinear", [inside, scale, zero], attrs, [Value(constant.type)])
            made.origins = node.origins
            graph.insert_before(node, made)
            graph.set_input(node, 0, made.output)
        found[value.name] = stored
    return found


def store(model: Model, weights: Mapping[str, Array], stored: Mapping[str, Codes]) -> None:
    """Put trained weights into a model, quantized where the model stores codes. Edits `model`."""
    named: dict[str, Value] = named_values(model)
    for name, array in weights.items():
        value = named[name]
        old = value.constant if value.constant is not None else value.default
        if old is None:
            raise ModelError(f"distil: {name!r} has no value to replace")
        new = Constant.of(array) if name not in stored else Constant.of(stored[name].codes(array), old.dtype)
        if value.constant is None:
            value.default = new
        else:
            value.constant = new


def _limited(node: Node, floats: Value, stored: Codes) -> Value:
    """min(max(x, least), greatest) before `node`: QuantizeLinear saturates only at the limits of the wider type."""
    for op, edge in zip(("Max", "Min"), stored.edges()):
        made = Node(op, [floats, Value(constant=Constant.of(edge))], {}, [Value(floats.type)])
        made.origins = node.origins
        assert node.graph is not None
        node.graph.insert_before(node, made)
        floats = made.output
    return floats


def _stored(node: Node, constant: Constant) -> Codes:
    scale, zero = node.constant(1), node.constant(2)
    assert scale is not None
    rank, size = len(constant.shape), int(node.attrs.get("block_size", 0))
    axis = int(node.attrs.get("axis", 1)) % max(rank, 1)

    def broadcast(parameter: Constant | None) -> Any:
        if parameter is None:
            return np.zeros(())
        array = parameter.array().astype(np.float64)
        if size:
            return np.repeat(array, size, axis)[tuple(slice(0, n) for n in constant.shape)]
        return array.reshape(()) if array.size == 1 else array.reshape(*[1] * axis, -1, *[1] * (rank - 1 - axis))

    step, centre = broadcast(scale), broadcast(zero)
    rows = tuple(k for k in range(rank) if k != axis or size or step.ndim == 0)
    return Codes(step, centre, constant.dtype, *_limits(constant.array(), centre, constant.dtype, rows))


def _limits(codes: Array, zero: Array, dtype: DType, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """The least and greatest code of the smallest grid that holds all codes, reduced over `axes`.

    Fewer than 8 bits are often stored in a wider type. Such a grid spans −2ᵇ⁻¹ to 2ᵇ⁻¹ − 1 around the zero point,
    shifted up by one where a row's codes need it, or 0 to 2ᵇ − 1. Scalars: the limits of `dtype`.
    """
    shifted = codes.astype(np.float64) - zero
    low, high = shifted.min(axes, keepdims=True, initial=0), shifted.max(axes, keepdims=True, initial=0)
    for bits in _NARROW if dtype.bits <= 8 else ():
        half = 1 << (bits - 1)
        if bits >= dtype.bits:
            break
        if dtype.name.startswith("U") and codes.max(initial=0) < 2 * half:
            return np.zeros_like(low), np.full_like(low, 2 * half - 1)
        up = (high >= half).astype(np.float64)
        if (low >= up - half).all() and (high < up + half).all():
            return up - half + zero, up + half - 1 + zero
    least, most = _range(dtype)
    return np.asarray(float(least)), np.asarray(float(most))


def _range(dtype: DType) -> tuple[int, int]:
    if dtype.name.startswith("U"):
        return 0, (1 << dtype.bits) - 1
    return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
