"""The source positions of Resize, and preparation of linear Resize of float32 images, as in onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.steps import Argument, Buffer, Routine, Step
from graphopt.kernels.tensors.windows import Image

Coordinates = Literal["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
"""The position of an output pixel in the input: ONNX's coordinate_transformation_mode."""
Nearest = Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
"""The choice of the nearest pixel: ONNX's nearest_mode, the default first."""


class ResizeRecord(NamedTuple):
    """Sizes of the images, as loops take them."""

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int


RESIZE_LINEAR = Kernel(
    "graphopt.kernels.loops.layout.interpolate:resize_linear",
    {
        "x": "f32*", "y": "f32*", "sizes": ResizeRecord, "rows": "i32*", "row_weights": "f32*", "columns": "i32*",
        "column_weights": "f32*",
    },
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Taps:
    """The two source elements of each output along an axis, int32 [2, size], and their weights, float32."""

    places: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


def _places(size: int, out: int, scale: float, coordinates: Coordinates) -> npt.NDArray[np.float32]:
    """The positions of `out` elements along an axis of `size`, possibly beyond its ends."""
    at = np.arange(out, dtype=np.float32)
    factor = np.float32(scale)
    if scale != 1:
        if coordinates == "asymmetric":
            at = at / factor
        elif coordinates == "align_corners":
            at = at * np.float32(size - 1) / np.float32(max(1, out - 1))
        elif coordinates == "half_pixel" or out > 1:
            at = (at + np.float32(0.5)) / factor - np.float32(0.5)
        else:
            at = np.zeros(out, np.float32)
    return at


def nearest_places(
    size: int, out: int, scale: float, coordinates: Coordinates, nearest: Nearest
) -> npt.NDArray[np.int32]:
    """int32 [out]: the nearest source elements along an axis of `size`; arguments as in `linear_taps`."""
    at = _places(size, out, scale, coordinates)
    if nearest == "floor":
        at = np.floor(at)
    elif nearest == "ceil":
        at = np.ceil(at)
    else:
        below = np.trunc(at)
        is_half = at - below == np.float32(0.5)
        at = np.where(is_half, below + np.float32(nearest == "round_prefer_ceil"), np.rint(at))
    return np.clip(at, 0, size - 1).astype(np.int32)


def linear_taps(size: int, out: int, scale: float, coordinates: Coordinates) -> Taps:
    """The taps of `out` elements along an axis of `size`, in float32 as onnxruntime computes them.

    `scale` is the output's size over the input's, which need not be exact. Beyond the ends the last element counts.
    """
    at = _places(size, out, scale, coordinates)
    at = np.clip(at, np.float32(0), np.float32(size - 1))
    first = np.minimum(at.astype(np.int32), size - 1)
    second = np.minimum(first + 1, size - 1)
    far, near = np.abs(at - first.astype(np.float32)), np.abs(at - second.astype(np.float32))
    weights = np.where(first == second, np.float32(0.5), np.stack((near, far)))
    return Taps(np.ascontiguousarray(np.stack((first, second)), np.int32), np.ascontiguousarray(weights, np.float32))


def prepare_resize_linear(image: Image, rows: Taps, columns: Taps) -> Routine:
    """Linear Resize of float32 x image.shape to y [batch, rows, columns, channels].

    A result is the float32 sum of four products in the order above-before, above-behind, below-before, below-behind.
    Raises ValueError for taps outside the image.
    """
    for taps, size in ((rows, image.height), (columns, image.width)):
        if taps.places.size and not (taps.places.min() >= 0 and taps.places.max() < size):
            raise ValueError(f"indices must be in 0 … {size - 1}")
    height, width = rows.places.shape[1], columns.places.shape[1]
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("y"),
        "sizes": ResizeRecord(image.height, image.width, image.channels, height, width),
        "rows": rows.places, "row_weights": rows.weights, "columns": columns.places, "column_weights": columns.weights,
    }  # fmt: skip
    return Routine((Step(RESIZE_LINEAR, arguments, image.batch * height if width and image.channels else 0),))
