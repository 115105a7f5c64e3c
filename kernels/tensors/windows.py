"""Sliding windows over NHWC images: the geometry that convolutions and pooling share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True, slots=True)
class Image:
    """The shape of a dense NHWC tensor. A sequence [N, L, C] is an image of height 1."""

    batch: int
    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        """Elements."""
        return self.batch * self.height * self.width * self.channels

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (self.batch, self.height, self.width, self.channels)


class WindowRecord(NamedTuple):
    """A window on images of one size, as loops take it."""

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True)
class Window:
    """Attributes of ONNX Conv and pools in two dimensions: (height, width) each; pads are (top, left, bottom, right).

    A window over a sequence has kernel (1, k), strides (1, s), dilations (1, d), pads (0, begin, 0, end).
    Raises ValueError for sizes below 1 or negative pads.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        if min(*self.kernel, *self.strides, *self.dilations) < 1 or min(self.pads) < 0:
            raise ValueError(f"kernel, strides and dilations must be positive and pads not negative: {self}")

    @property
    def taps(self) -> int:
        """Elements under the window."""
        return self.kernel[0] * self.kernel[1]

    def output_size(self, axis: int, size: int) -> int:
        """Outputs along an axis (0 height, 1 width) of the given input size, as ONNX defines them.

        With ceil_mode a window that would start in the end padding is dropped.
        """
        begin, end = self.pads[axis], self.pads[axis + 2]
        stride = self.strides[axis]
        span = size + begin + end - self.dilations[axis] * (self.kernel[axis] - 1) - 1
        if span < 0:
            return 0
        count = (-(-span // stride) if self.ceil_mode else span // stride) + 1
        if self.ceil_mode and (count - 1) * stride >= size + begin:
            count -= 1
        return count

    def output(self, image: Image) -> Image:
        """The image of windows over `image`, channels unchanged."""
        height, width = self.output_size(0, image.height), self.output_size(1, image.width)
        return Image(image.batch, height, width, image.channels)

    def record(self, image: Image) -> WindowRecord:
        """This window on `image`, as loops take it."""
        out = self.output(image)
        sizes = (image.height, image.width, image.channels, out.height, out.width)
        return WindowRecord(*sizes, *self.kernel, *self.strides, *self.dilations, *self.pads)

    def check_covers(self, image: Image) -> None:
        """Raise ValueError where a window would lie wholly in the padding of `image`."""
        for axis, size in enumerate((image.height, image.width)):
            starts = np.arange(self.output_size(axis, size)) * self.strides[axis] - self.pads[axis]
            taps = starts[:, None] + np.arange(self.kernel[axis]) * self.dilations[axis]
            if not np.all(np.any((taps >= 0) & (taps < size), axis=1)):
                raise ValueError(f"a window of {self} lies wholly in the padding of {image}")

    def interior(self, axis: int, size: int, skipped: int = 0) -> tuple[int, int]:
        """The outputs [first, last) along an axis whose windows, but for the first `skipped` taps, lie inside."""
        outputs = self.output_size(axis, size)
        begin, stride = self.pads[axis], self.strides[axis]
        first = min(outputs, max(0, -(-(begin - skipped * self.dilations[axis]) // stride)))
        reach = size - 1 + begin - self.dilations[axis] * (self.kernel[axis] - 1)
        return first, max(first, min(outputs, reach // stride + 1))
