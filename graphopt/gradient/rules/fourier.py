"""Fourier transforms: linear, so their gradients are adjoints, which are Fourier transforms, too."""

from __future__ import annotations

import numpy as np

from ...errors import Declined
from ..call import Call, Gradients, Rule
from ..tensor import Tensor

_AXIS_INPUT = 20
"""The opset from which DFT reads its axis as an input; an attribute until then (ONNX's changelog)."""


def dft(call: Call) -> Gradients:
    """y = F x over m points, Fₖₜ = e^(−2πi kt/m): dx = F̄ᵀ g = m F⁻¹ g, a missing half of g being 0. Of y = F⁻¹ x:
    dx = F g / m; where y is real and x a half of a spectrum, twice that but for the points that have no other half"""
    x, g, length = call.x, call.g, call.node.input(1)
    axis = _axis(call)
    rows = x.dims[axis] if length is None else int(call.number(1, "the length of a DFT").reshape(-1)[0])
    inverse, half = bool(call.attr("inverse", 0)), bool(call.attr("onesided", 0))
    if inverse and half and length is None and isinstance(rows, int):
        rows = 2 * (rows - 1)
    if not isinstance(rows, int):
        raise Declined("a DFT of unknown length")
    if not inverse:
        return {0: _fitted(_adjoint(g, axis, rows), x, axis)}
    if not half:
        return {0: _fitted(_transform(g, axis) / rows, x, axis)}
    weights = np.full(rows // 2 + 1, 2.0)
    weights[0] = 1
    weights[-1] = 2 if rows % 2 else 1
    factor = call.writer.constant((weights / rows).reshape([-1, *[1] * (x.rank - 1 - axis)]), x.dtype)
    return {0: _fitted(_transform(g, axis, onesided=1) * factor, x, axis)}


def stft(call: Call) -> Gradients:
    """yⱼ = F (w xⱼ) of frames xⱼ of the signal: dxⱼ = w F̄ᵀ gⱼ, summed where frames overlap; dw = Σⱼ xⱼ F̄ᵀ gⱼ"""
    x, w = call.x, call.writer
    window = call.optional(2)
    step = int(call.number(1, "the step of frames").reshape(-1)[0])
    count = call.y.dims[1]
    rows = window.dims[0] if window is not None else int(call.number(3, "the length of frames").reshape(-1)[0])
    if not isinstance(rows, int) or not isinstance(count, int):
        raise Declined("an STFT of unknown size")
    places = w.constant(np.arange(count)[:, None] * step + np.arange(rows))  # i64[frames, rows]
    back = _adjoint(call.g, 2, rows)  # [batch, frames, rows, 2]
    back = back.slice([0], [1], [3]) if x.dims[-1] == 1 else back
    found: Gradients = {}
    if 0 in call.wanted:
        parts = back if window is None else back * window.unsqueeze([1])
        empty = w.full(w.ints([x.size(1), x.size(0), x.size(2)]), 0.0, x.dtype)
        summed = w.scatter("ScatterND", empty, places.unsqueeze([2]), parts.transpose([1, 2, 0, 3]), "add")
        found[0] = summed.transpose([1, 0, 2])
    if 2 in call.wanted:
        found[2] = (back * x.Gather(places, axis=1)).sum([0, 1, 3])
    return found


def _axis(call: Call) -> int:
    """The axis of a DFT, the last one being that of real and imaginary parts."""
    if call.writer.graph.opsets.get("", 0) < _AXIS_INPUT:
        return call.axis(default=1)
    if call.node.input(2) is None:
        return call.x.rank - 2
    axis = int(call.number(2, "the axis of a DFT").reshape(-1)[0])
    return axis if axis >= 0 else axis + call.x.rank


def _transform(t: Tensor, axis: int, **attrs: int) -> Tensor:
    """F t, or its variant by attributes of DFT."""
    w = t.writer
    if w.graph.opsets.get("", 0) < _AXIS_INPUT:
        return w.node("DFT", t, axis=axis, **attrs)
    return w.node("DFT", t, None, w.constant(np.array(axis, np.int64)), **attrs)


def _adjoint(g: Tensor, axis: int, rows: int) -> Tensor:
    """F̄ᵀ g = m F⁻¹ g over m = rows points, g being complex, or its first half alone."""
    return _transform(_filled(g, axis, rows), axis, inverse=1) * rows


def _filled(t: Tensor, axis: int, rows: int) -> Tensor:
    """An axis padded with zeros, or cropped, to `rows`."""
    have = t.size(axis)
    if not isinstance(have, int):
        raise Declined("a DFT of unknown length")
    pads = [0] * (2 * t.rank)
    pads[t.rank + axis] = rows - have
    return t.pad(pads)


def _fitted(t: Tensor, x: Tensor, axis: int) -> Tensor:
    """Cropped, or padded with zeros, to the rows of x, of which the transform read as many as it has points; the real
    part where x is real."""
    rows = x.size(axis)
    if not isinstance(rows, int):
        raise Declined("a DFT of unknown length")
    filled = _filled(t, axis, rows)
    return filled.slice([0], [1], [x.rank - 1]) if x.dims[-1] == 1 and t.dims[-1] == 2 else filled


RULES: dict[str, Rule] = {"DFT": dft, "STFT": stft}
