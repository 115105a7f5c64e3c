"""Conv and ConvTranspose, dense, grouped and depthwise, over any number of spatial axes.

The weight gradient is a matrix product a tap, of shifted operands or of a Slice for each, never a Conv over transposed
tensors (measured up to 4.9 × as slow in onnxruntime); the input gradient at stride 1 is a Conv with flipped weights,
beyond it a ConvTranspose. In a training step for this machine, convolutions use blocks of channels (`blocked.py`), and
both gradients of a depthwise Conv are Convs: one over the dilated cotangent, one over the whole batch at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ...errors import Declined
from ...ir import DType
from ...ops import resolve_pads
from ..blocked import as_blocks, conv_in_blocks, conv_of_blocks, fits, in_blocks, weights_in_blocks
from ..call import Call, Gradients, Rule
from ..tensor import Tensor

MANY_CHANNELS, FEW_CHANNELS = 256, 4
"""Input channels from which, and up to which, all taps use one product (im2col). 256 was measured on other models
before this file was written; 4 is a guess at where products of one tap are too thin. No benchmark here yet."""


@dataclass(frozen=True)
class Window:
    """The sliding window of a kernel: sizes per spatial axis. pads: all begins and then all ends, possibly negative."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    group: int = 1

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    @property
    def begins(self) -> tuple[int, ...]:
        """Padding before the first element of each spatial axis."""
        return self.pads[: self.rank]

    @property
    def ends(self) -> tuple[int, ...]:
        """Padding after the last element of each spatial axis."""
        return self.pads[self.rank :]

    @property
    def extents(self) -> tuple[int, ...]:
        """Elements spanned by a kernel: d (k − 1) + 1."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations))

    @property
    def around(self) -> list[int]:
        """The pads of an operand [N, C, …] in the form of operator Pad."""
        return [0, 0, *self.begins, 0, 0, *self.ends]


def window_of(call: Call, kernel: Sequence[int], data: Tensor) -> Window:
    """The window of a node over `data`. Declined for SAME padding of unknown sizes."""
    n = len(kernel)
    strides = tuple(call.attr("strides") or (1,) * n)
    dilations = tuple(call.attr("dilations") or (1,) * n)
    mode, sizes = call.attr("auto_pad", "NOTSET"), data.dims[2:]
    known = [s for s in sizes if isinstance(s, int)]
    if mode.startswith("SAME") and len(known) != n:
        raise Declined(f"{mode} padding of unknown sizes")
    pads = resolve_pads(mode, call.attr("pads") or (), known, kernel, strides, dilations)
    return Window(tuple(kernel), strides, dilations, pads, int(call.attr("group", 1)))


def _kernel(weights: Tensor) -> tuple[int, ...]:
    sizes = weights.dims[2:]
    known = tuple(s for s in sizes if isinstance(s, int))
    if len(known) != len(sizes) or not all(isinstance(s, int) for s in weights.dims):
        raise Declined("a kernel of unknown size")
    return known


def conv(call: Call) -> Gradients:
    """y = w ∗ x + b: dx is g correlated with the flipped kernel, dw[:, :, k] = Σ_n g_n x_n(k)ᵀ for the elements x(k)
    that tap k reads, db = Σ g"""
    x, w, g = call.input(0), call.input(1), call.g
    window = window_of(call, _kernel(w), x)
    found: Gradients = {}
    if 0 in call.wanted:
        found[0] = _data_gradient(g, w, x, window)
    if 1 in call.wanted:
        found[1] = weight_gradient(x, g, w, window)
    if 2 in call.wanted:
        found[2] = over_batch(g).sum(list(range(1, g.rank - 1)))
    return found


def _data_gradient(g: Tensor, w: Tensor, x: Tensor, window: Window) -> Tensor:
    """dL/dx of a Conv."""
    pads = [e - 1 - p for e, p in zip(window.extents * 2, window.pads)]
    if all(s == 1 for s in window.strides) and min(pads) >= 0:
        return _flipped_conv(g, w, window, pads)
    return spread(g, w, x, window)


def _flipped_conv(g: Tensor, w: Tensor, window: Window, pads: Sequence[int]) -> Tensor:
    """Conv of g with w[M, C/G, …] as [C, M/G, …], reversed along each spatial axis."""
    group, spatial = window.group, list(range(2, 2 + window.rank))
    m, c = (int(d) for d in w.dims[:2] if isinstance(d, int))
    attrs: dict[str, Any] = {"group": group, "dilations": window.dilations, "pads": tuple(pads)}
    turned = _swapped(w, group, m, c, window.kernel)
    if fits(turned, group):
        return conv_in_blocks(g, turned, flipped=True, **attrs)
    flipped = w.flipped([axis for axis, k in zip(spatial, window.kernel) if k > 1])
    return g.writer.node("Conv", g, _swapped(flipped, group, m, c, window.kernel), **attrs)


def _swapped(w: Tensor, group: int, m: int, c: int, kernel: Sequence[int]) -> Tensor:
    """w [M, C/G, …] as [C, M/G, …]."""
    spatial = list(range(2, 2 + len(kernel)))
    if group == 1:
        return w.transpose([1, 0, *spatial])
    if c == 1 and m == group:
        return w
    parts = w.reshape([group, m // group, c, *kernel])
    return parts.transpose([0, 2, 1, *(a + 1 for a in spatial)]).reshape([group * c, m // group, *kernel])


def spread(g: Tensor, w: Tensor, x: Tensor, window: Window) -> Tensor:
    """Σ over windows of g · w, added to the elements that each window reads: [N, C, …] like x."""
    n = window.rank
    attrs = {"group": window.group, "strides": window.strides, "dilations": window.dilations}
    need, have = x.dims[2:], g.dims[2:]
    if w.dims[1] == 1 and fits(w, window.group):
        apart = _apart(g, x, w, window)
        if apart is not None:
            return apart
    missing = []
    for size, windows, step, extent, pad in zip(
        need, have, window.strides, window.extents, map(sum, zip(window.begins, window.ends))
    ):
        if isinstance(size, int) and isinstance(windows, int):
            missing.append(size + pad - (windows - 1) * step - extent)
    if len(missing) == n and min(window.pads) >= 0 and all(0 <= m < s for m, s in zip(missing, window.strides)):
        extra = tuple(missing) if any(missing) else None
        return g.writer.node("ConvTranspose", g, w, pads=window.pads, output_padding=extra, **attrs)
    full = g.writer.node("ConvTranspose", g, w, **attrs)
    room = max(s - 1 for s in window.strides)
    room = max([room, *(-p for p in window.pads), *missing])
    padded = full.pad([0, 0, *(max(0, -p) for p in window.begins), 0, 0, *([room] * n)])
    starts = [max(0, p) for p in window.begins]
    ends = [_plus(x.size(2 + i), starts[i]) for i in range(n)]
    return padded.slice(starts, ends, list(range(2, 2 + n)))


def _apart(g: Tensor, x: Tensor, w: Tensor, window: Window) -> Tensor | None:
    """`spread` of a depthwise Conv as a Conv of stride 1, over g with zeros between its elements; None where sizes are
    unknown, or would require cropping."""
    sizes = [(i, o) for i, o in zip(x.dims[2:], g.dims[2:]) if isinstance(i, int) and isinstance(o, int)]
    pads = [e - 1 - p for e, p in zip(window.extents, window.begins)]
    pads += [
        need - out * step - before + extent - 1
        for (need, out), step, before, extent in zip(sizes, window.strides, pads, window.extents)
    ]
    if len(sizes) != 2 or min(pads) < 0:
        return None
    (height, width), (down, across), block = (o for _, o in sizes), window.strides, g.writer.block
    lone = in_blocks(g).reshape([-1, 1, width, block]).pad([0, 0, 0, 0, 0, down - 1, 0, (across - 1) * block])
    shape = (x.dims[0], window.group, height * down, width * across)
    wide = as_blocks(lone.reshape([-1, *(int(str(d)) for d in shape[1:])]), shape)
    attrs: dict[str, Any] = {"group": window.group, "dilations": window.dilations, "pads": tuple(pads)}
    return conv_of_blocks(wide, weights_in_blocks(w, flipped=True), **attrs)


def _depthwise_weight_gradient(x: Tensor, g: Tensor, w: Tensor, window: Window) -> Tensor | None:
    """dL/dw [C, 1, h, w] as one Conv of the batch, its images one below the other, with g as kernel; None where sizes
    are unknown.

    Padded images are H' high, H' a multiple of the stride s, and g with zero rows H'/s: row i of image n then meets row
    n H' + s i + d k of the images in output row k, for strides s and dilations d that swap their places. The zero rows
    above an image are those below the one before.
    """
    sizes = [s for s in (*x.dims[2:], *g.dims[2:]) if isinstance(s, int)]
    if len(sizes) != 4:
        return None
    (height, width, rows, columns), (down, across) = sizes, window.strides
    (top, left, bottom, _), (kh, kw) = window.pads, window.kernel
    tall = max(top + height + max(0, bottom - top), rows * down)
    tall += -tall % down
    images = _one_below_the_other(x, (1, window.group), top, tall - height - top)
    kernels = _one_below_the_other(g, (window.group, 1), 0, tall // down - rows)
    below = max(0, window.dilations[0] * (kh - 1) - down + 1)
    right = max(0, (columns - 1) * across + (kw - 1) * window.dilations[1] + 1 - left - width)
    attrs: dict[str, Any] = {"strides": window.dilations, "dilations": (down, across), "pads": (0, left, below, right)}
    made = conv_of_blocks(images, kernels, group=window.group, **attrs)
    return made.slice([0, 0], [kh, kw], [2, 3]).reshape(w.sizes())


def _one_below_the_other(x: Tensor, lead: tuple[int, int], above: int, below: int) -> Tensor:
    """The images of x [N, C, H, W] with rows of zeros above and below each, as one image [*lead, N (a + H + b), W] in
    blocks. lead: (1, C) or, for a kernel of each channel, (C, 1)."""
    block, (height, width) = x.writer.block, (int(str(d)) for d in x.dims[2:])
    lines = in_blocks(x).reshape([-1, max(lead) // block, height, width * block]).transpose([1, 0, 2, 3])
    tall = lines.pad([0, 0, above, 0, 0, 0, below, 0]).reshape([*lead, -1, width])
    return as_blocks(tall, (*lead, None, width))


def _plus(size: int | Tensor, number: int) -> int | Tensor:
    return size + number


def taps(x: Tensor, windows: Sequence[int | Tensor], window: Window) -> list[Tensor]:
    """For each tap of the kernel, in row-major order, the elements of the padded x that it reads: [N, C, *windows]."""
    if all(k == 1 for k in window.kernel) and all(s == 1 for s in window.strides):
        return [x]
    axes = list(range(2, 2 + window.rank))
    found = []
    for place in product(*(range(k) for k in window.kernel)):
        starts = [p * d for p, d in zip(place, window.dilations)]
        ends = [(count - 1) * s + (b + 1) for count, s, b in zip(windows, window.strides, starts)]
        found.append(x.slice(starts, ends, axes, window.strides))
    return found


def weight_gradient(x: Tensor, g: Tensor, w: Tensor, window: Window) -> Tensor:
    """dL/dw [M, C/G, *kernel] of a Conv with input x [N, C, …] and cotangent g [N, M, …]."""
    m, c = (int(d) for d in w.dims[:2] if isinstance(d, int))
    group, count = window.group, math.prod(window.kernel)
    if m == group and c == 1 and fits(w, group) and min(window.pads) >= 0:
        whole = _depthwise_weight_gradient(x, g, w, window)
        if whole is not None:
            return whole
    if c > FEW_CHANNELS and (pairs := shifted(x, g, window)):
        products = [_product(g_k, x_k, m, c, group) for g_k, x_k in pairs]
        return _stacked(products, m, c, window)
    parts = taps(x.pad(window.around), g.sizes()[2:], window)
    if group == 1 and (len(parts) == 1 or c >= MANY_CHANNELS or c <= FEW_CHANNELS):
        flat = [part.reshape([0, c, -1]) for part in parts]
        columns = flat[0] if len(flat) == 1 else x.writer.node("Concat", *flat, axis=1)
        summed = over_batch(g.reshape([0, m, -1]) @ columns.T)
        return summed.reshape([m, count, c]).transpose([0, 2, 1]).reshape([m, c, *window.kernel])
    if m == group and c == 1:
        over = [0, *range(2, 2 + window.rank)]
        return _stacked([(g * part).sum(over).reshape([m, 1]) for part in parts], m, c, window)
    return _stacked([_product(g, part, m, c, group) for part in parts], m, c, window)


def _product(g: Tensor, part: Tensor, m: int, c: int, group: int) -> Tensor:
    """Σ_n g_n x_nᵀ over the batch and all places, [M, C/G] of g [N, M, …] and the elements x [N, C, …] of a tap."""
    if group == 1:
        return over_batch(g.reshape([0, m, -1]) @ part.reshape([0, c, -1]).T)
    rows = g.reshape([0, group, m // group, -1])
    return over_batch(rows @ part.reshape([0, group, c, -1]).T).reshape([m, c])


def over_batch(x: Tensor) -> Tensor:
    """Σ over the first axis, in a step for this machine as 1ᵀ x: at small batches onnxruntime's ReduceSum takes up to
    nine times as long (2 × 512²), and wakes threads even for tiny tensors."""
    sizes = x.dims[1:]
    if not x.writer.block or x.dtype is not DType.FLOAT or not all(isinstance(s, int) for s in sizes):
        return x.sum([0])
    summed = x.writer.ones(x.size(0)) @ x.reshape([0, -1])
    return summed.reshape([int(str(s)) for s in sizes])


def _stacked(products: Sequence[Tensor], m: int, c: int, window: Window) -> Tensor:
    """Results [M, C/G] of all taps as the kernels [M, C/G, *kernel]."""
    if len(products) == 1:
        return products[0].reshape([m, c, *window.kernel])
    stacked = products[0].writer.node("Concat", *(p.unsqueeze([2]) for p in products), axis=2)
    return stacked.reshape([m, c, *window.kernel])


def shifted(x: Tensor, g: Tensor, window: Window) -> list[tuple[Tensor, Tensor]]:
    """For each tap g and x [N, …, H' W'], shifted so that their elements meet; none where sizes are unknown, or x is
    not s times as large as g.

    Tap k of one axis reads element s i + d k − p = s (i + q) + r for window i. Of x, phase r of each axis is taken, and
    shifted by q along rows: one long copy, with zeros for elements of another row; of g, the rows are shifted. For a
    kernel of 3 × 3 this takes two copies of each, where a Slice of x for each tap takes nine, of many short runs.
    """
    sizes = [s for s in g.dims[2:] if isinstance(s, int)]
    if len(sizes) != 2 or x.dims[2:] != tuple(n * s for n, s in zip(sizes, window.strides)):
        return []
    per_axis = [
        [divmod(k * d - pad, s) for k in range(count)]
        for count, d, pad, s in zip(window.kernel, window.dilations, window.begins, window.strides)
    ]
    if any(abs(q) >= n for shifts, n in zip(per_axis, sizes) for q, _ in shifts):
        return []
    rows = {q: _lowered(g, q * sizes[1]) for q, _ in per_axis[0]}
    columns = {}
    for r, t in product({r for _, r in per_axis[0]}, {t for _, t in per_axis[1]}):
        phase = x if window.strides == (1, 1) else x.slice([r, t], [2**31 - 1] * 2, [2, 3], window.strides)
        columns.update({(r, t, q): _moved(phase, sizes, q) for q in {q for q, found in per_axis[1] if found == t}})
    return [(rows[q], columns[r, t, p]) for q, r in per_axis[0] for p, t in per_axis[1]]


def _lowered(g: Tensor, places: int) -> Tensor:
    """Each plane of g [N, M, H, W] as a row [N, M, H W], shifted by `places` elements and filled with zeros."""
    return g.reshape([0, 0, -1]).pad([0, 0, places, 0, 0, -places])


def _moved(x: Tensor, sizes: Sequence[int], places: int) -> Tensor:
    """x [N, C, *sizes] with each row shifted left by `places`, filled with zeros."""
    if not places:
        return x
    height, width = sizes
    kept = (np.arange(width) + places >= 0) & (np.arange(width) + places < width)
    mask = x.writer.constant(np.tile(kept, height), x.dtype)
    rows = x.reshape([-1]).pad([-places, places]).reshape([-1, height * width]) * mask
    return rows.reshape([-1, x.size(1), *sizes])


def conv_transpose(call: Call) -> Gradients:
    """y = wᵀ ∗ x + b, the adjoint of Conv: dx = w ∗ g, dw[:, :, k] = Σ_n x_n g_n(k)ᵀ, db = Σ g"""
    x, w, g = call.input(0), call.input(1), call.g
    window = _transposed_window(call, x, w, g)
    around = g.pad(window.around)
    inner = Window(window.kernel, window.strides, window.dilations, (0,) * 2 * window.rank, window.group)
    found: Gradients = {}
    if 0 in call.wanted:
        attrs = {"group": window.group, "strides": window.strides, "dilations": window.dilations}
        if min(window.pads) < 0:
            full = x.writer.node("Conv", around, w, **attrs)
        else:
            full = x.writer.node("Conv", g, w, pads=window.pads, **attrs)
        spatial = list(range(2, 2 + window.rank))
        if full.dims[2:] != x.dims[2:]:
            full = full.slice([0] * window.rank, x.sizes()[2:], spatial)
        found[0] = full
    if 1 in call.wanted:
        found[1] = weight_gradient(around, x, w, inner)
    if 2 in call.wanted:
        found[2] = over_batch(g).sum(list(range(1, g.rank - 1)))
    return found


def _transposed_window(call: Call, x: Tensor, w: Tensor, y: Tensor) -> Window:
    """The window of a ConvTranspose, its pads from the sizes of input and output where they are not given."""
    kernel = _kernel(w)
    n = len(kernel)
    strides = tuple(call.attr("strides") or (1,) * n)
    dilations = tuple(call.attr("dilations") or (1,) * n)
    group, mode = int(call.attr("group", 1)), call.attr("auto_pad", "NOTSET")
    if mode == "NOTSET" and not call.attr("output_shape"):
        return Window(kernel, strides, dilations, tuple(call.attr("pads") or (0,) * 2 * n), group)
    if mode == "VALID":
        return Window(kernel, strides, dilations, (0,) * 2 * n, group)
    extra = call.attr("output_padding") or (0,) * n
    begins, ends = [], []
    for size, out, step, more, k, d in zip(x.dims[2:], y.dims[2:], strides, extra, kernel, dilations):
        if not isinstance(size, int) or not isinstance(out, int):
            raise Declined("a ConvTranspose whose pads follow from unknown sizes")
        total = step * (size - 1) + more + d * (k - 1) + 1 - out
        small = total // 2 if total >= 0 else 0
        begins.append(small if mode == "SAME_UPPER" else max(total, 0) - small)
        ends.append(total - begins[-1])
    return Window(kernel, strides, dilations, (*begins, *ends), group)


RULES: dict[str, Rule] = {"Conv": conv, "ConvTranspose": conv_transpose}
