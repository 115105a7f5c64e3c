"""Sliding windows of a convolution over an image: padding, positions of the output drawn at random, im2col."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ...ir import Array, Node
from ...ops import attr
from ...ops.padding import resolve_pads


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """Positions of an output: the batch index, then one index for each spatial axis, each an int64[R]."""

    index: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.index[0])

    @property
    def channels_first(self) -> tuple[Any, ...]:
        """The index into an array with channels on axis 1; selects all channels."""
        batch, *space = self.index
        return (batch, slice(None), *space)


def draw_positions(sizes: Sequence[int], count: int, rng: np.random.Generator) -> Positions:
    """At most `count` positions of an array of `sizes`, batch first, without repetition and in order."""
    total = math.prod(sizes)
    drawn = np.arange(total) if total <= count else np.sort(rng.choice(total, count, replace=False))
    return Positions(tuple(np.unravel_index(drawn, tuple(sizes))))


@dataclass(frozen=True, slots=True)
class Windows:
    """The window attributes of a Conv or ConvTranspose (ONNX), one number a spatial axis.

    `pads` are as stored, all begins and then all ends; `auto_pad` may override them.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    auto_pad: str
    pads: tuple[int, ...]

    @classmethod
    def of(cls, node: Node, kernel: Sequence[int]) -> Windows:
        """The window attributes of a node with this kernel."""
        ones, rank = (1,) * len(kernel), len(kernel)
        strides, dilations = (tuple(attr(node, name, None) or ones) for name in ("strides", "dilations"))
        pads = tuple(attr(node, "pads", None) or (0,) * 2 * rank)
        return cls(tuple(kernel), strides, dilations, str(attr(node, "auto_pad", "NOTSET")), pads)

    @property
    def spans(self) -> tuple[int, ...]:
        """Extent of a dilated window per axis: positions from its first to its last element."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel))

    def pad(self, x: Array) -> Array:
        """x [B, C, *sizes] with zeros around it."""
        pads = resolve_pads(self.auto_pad, self.pads, x.shape[2:], self.kernel, self.strides, self.dilations)
        rank = len(self.kernel)
        return np.pad(x, ((0, 0), (0, 0), *zip(pads[:rank], pads[rank:]))) if any(pads) else x

    def sizes_of(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The spatial sizes of the output for an unpadded image of `sizes`."""
        pads = resolve_pads(self.auto_pad, self.pads, sizes, self.kernel, self.strides, self.dilations)
        wide = (n + before + after for n, before, after in zip(sizes, pads, pads[len(sizes) :]))
        return tuple(max(0, (n - r) // s + 1) for n, r, s in zip(wide, self.spans, self.strides))

    def transposed_sizes(self, node: Node, sizes: Sequence[int]) -> tuple[int, ...]:
        """The spatial sizes of the output of a transposed convolution with stored padding."""
        extra = tuple(attr(node, "output_padding", None) or (0,) * len(sizes))
        pads = zip(self.pads, self.pads[len(sizes) :])
        parts = zip(sizes, self.strides, self.spans, extra, pads)
        return tuple(s * (n - 1) + e + r - before - after for n, s, r, e, (before, after) in parts)

    def output_sizes(self, padded: Array) -> tuple[int, ...]:
        """[B, *sizes]: how many windows fit into a padded image."""
        sizes = (max(0, (n - r) // s + 1) for n, r, s in zip(padded.shape[2:], self.spans, self.strides))
        return (len(padded), *sizes)

    def patches(self, padded: Array, positions: Positions) -> Array:
        """im2col: the windows [R, C, *kernel] of a padded image at some positions of the output."""
        if not len(positions):  # the image may hold no window at all
            return np.empty((0, padded.shape[1], *self.kernel), padded.dtype)
        windows = sliding_window_view(padded, self.spans, axis=tuple(range(2, padded.ndim)))
        steps = [slice(None, None, step) for step in (1, 1, *self.strides, *self.dilations)]
        return np.ascontiguousarray(windows[tuple(steps)][positions.channels_first])

    def transposed_patches(self, x: Array, positions: Positions) -> Array:
        """[R, C, *kernel]: the input elements that a transposed convolution multiplies for each output position p.

        Kernel position k meets input q with q stride + k dilation = p + pad, zero where there is none.
        """
        rank = len(self.kernel)
        inside = np.ones((len(positions), *self.kernel), bool)
        index: list[Any] = [positions.index[0].reshape(-1, *(1,) * rank)]
        for axis in range(rank):
            steps = np.arange(self.kernel[axis]) * self.dilations[axis]
            scaled = positions.index[axis + 1][:, None] + self.pads[axis] - steps  # q stride, [R, k]
            source, rest = np.divmod(scaled, self.strides[axis])
            shape = [len(positions), *(self.kernel[axis] if k == axis else 1 for k in range(rank))]
            inside &= ((rest == 0) & (source >= 0) & (source < x.shape[2 + axis])).reshape(shape)
            index.append(np.clip(source, 0, x.shape[2 + axis] - 1).reshape(shape))
        gathered = np.moveaxis(x, 1, -1)[tuple(index)]  # [R, k..., C]
        return np.ascontiguousarray(np.moveaxis(np.where(inside[..., None], gathered, 0), -1, 1))
