"""Preparation of matrix products and convolutions, with common packing, driver and register tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.core.memory import Array, whole_lines
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.products.epilogue import Epilogue, FloatOutput, Requantize, is_signed
from graphopt.kernels.products.packing import GROUP, split_planes, whole_quads
from graphopt.kernels.products.panels import PanelBuilder
from graphopt.kernels.products.tiles import RowTiles, cut_rows
from graphopt.kernels.tensors.lookup import looks_up

# `python -m tests.bench.kernels` shows the effect of these.
_BLOCK_BYTES = 256 * 1024  # of activations that one pass over the panels keeps in L2
_TABLE_BYTES = 64 * 1024  # of pointers to rows, beside them
_NARROW_PIXEL = 33  # input channels below which whole lines of taps are read from a padded copy
_UNITS = 8  # shares of a step that two workers can divide evenly
_SPLIT_MACS = 1 << 20  # multiply-accumulates (some 5 µs) below which panels are not shared out
_WIDEN_TILE = 16384  # bytes, as the loop cuts them


class ConvShape(NamedTuple):
    """A convolution's geometry, in pixels of `pixel` bytes; a matrix product is one line of rows and a single tap."""

    batch: int
    height: int
    width: int
    pixel: int
    out_height: int
    out_width: int
    stride_y: int = 1
    stride_x: int = 1
    pad_y: int = 0
    pad_x: int = 0

    @property
    def rows(self) -> int:
        """Output pixels."""
        return self.batch * self.out_height * self.out_width


class ProductSizes(NamedTuple):
    """Taps, planes of weights, shares of the panels, panels; bytes of an output, a pixel of y, a pixel of residual."""

    taps: int
    planes: int
    chunks: int
    panels: int
    element: int
    y_pixel: int
    r_pixel: int
    wide: int  # whether some groups read activations widened to int16


_ADDRESSES = ("x", "x_wide", "y", "residual", "row_scales", "row_zeros", "border", "border_wide", "table")
MULTIPLY = Kernel(
    "graphopt.kernels.loops.products.matmul_conv:multiply",
    {
        **dict.fromkeys(_ADDRESSES, "i64"), "panels": "i64*", "taps": "i64*", "shape": ConvShape, "cut": RowTiles,
        "sizes": ProductSizes, "scratch": "i64", "scratch_bytes": "i64",
    },
)  # fmt: skip
WIDEN = Kernel(
    "graphopt.kernels.loops.products.matmul_conv:widen", {"x": "u8*", "y": "i64", "count": "i64", "flip": "u8"}
)
PAD = Kernel(
    "graphopt.kernels.loops.products.matmul_conv:pad",
    dict.fromkeys(
        ("x", "y", "height", "width", "pixel", "top", "left", "padded_height", "padded_width", "zero_point"), "i64"
    ),
)


@dataclass(frozen=True, slots=True)
class Activations:
    """Storage of a product's input: uint8 or int8, and its zero point (ignored for dynamic rows)."""

    dtype: npt.DTypeLike
    zero_point: int = 0

    @property
    def flip(self) -> int:
        """The mask that makes the stored byte unsigned."""
        return 128 if is_signed(self.dtype) else 0


def prepare_matmul(
    rows: int, weights: Array, activations: Activations, output: Epilogue, *, bias: Array | None = None,
    weight_zero_point: int | Array = 0, source: str = "x", level: Level | None = None,
) -> Routine:  # fmt: skip
    """y[rows, N] = epilogue(Σ_k (x[m, k] − x_zero) · (w[k, n] − w_zero[n]) + bias[n]).

    x is u8 or s8 [rows, K] in the buffer `source`; `weights` is s8 or u8 [K, N] in any strides; bias is int32 [N]. A
    batch of matrices that share their weights is so many more rows.
    """
    depth = weights.shape[0]
    centred = _planes(weights, np.asarray(weight_zero_point))[None]
    shape = ConvShape(1, 1, max(rows, 1), depth, 1, rows)
    taps = np.zeros((1, 3), np.int64)
    return _prepare(shape, taps, centred, activations, output, bias, level or select_level(), source)


def prepare_conv(
    x_shape: Sequence[int], weights: Array, activations: Activations, output: Epilogue, *, bias: Array | None = None,
    weight_zero_point: int | Array = 0, strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1), groups: int = 1, level: Level | None = None,
) -> Routine:  # fmt: skip
    """QLinearConv / ConvInteger on NHWC images.

    x_shape is (N, H, W, C), weights are [O, C / groups, KH, KW] as in ONNX, s8 or u8 with a zero point per tensor or
    per output channel; pads are (top, left, bottom, right), filled with the activations' zero point; y is
    [N, OH, OW, O]. A 1-D convolution has H = KH = 1. Raises ValueError when the shapes do not fit together.
    """
    batch, height, width, channels = x_shape
    outputs, depth, kernel_height, kernel_width = weights.shape
    if channels != depth * groups or outputs % groups:
        raise ValueError(f"weights {weights.shape} do not fit {channels} channels in {groups} groups")
    top, left, bottom, right = pads
    out_height = (height + top + bottom - dilations[0] * (kernel_height - 1) - 1) // strides[0] + 1
    out_width = (width + left + right - dilations[1] * (kernel_width - 1) - 1) // strides[1] + 1
    if min(out_height, out_width) < 0:
        raise ValueError(f"image {tuple(x_shape)} is smaller than kernel {weights.shape[2:]}")
    level = level or select_level()
    planes = _planes(weights, np.reshape(weight_zero_point, (-1, 1, 1, 1)))
    by_group = planes.reshape(len(planes), groups, outputs // groups, depth, kernel_height, kernel_width)
    narrow = groups == 1 and kernel_width > 1 and dilations[1] == 1 and channels < _NARROW_PIXEL
    stride = (int(strides[0]), int(strides[1]))
    if not narrow:
        rows, columns = np.divmod(np.arange(kernel_height * kernel_width), kernel_width)
        dy, dx = rows * dilations[0], columns * dilations[1]
        taps = np.stack([dy, dx, (dy * width + dx) * channels], axis=1).astype(np.int64)
        segments = by_group.transpose(1, 0, 4, 5, 3, 2).reshape(groups, -1, depth, outputs // groups)
        shape = ConvShape(batch, height, width, channels, out_height, out_width, *stride, top, left)
        return _prepare(shape, taps, segments, activations, output, bias, level)
    padded = (height + top + bottom, width + left + right)
    dy = np.arange(kernel_height) * dilations[0]
    taps = np.stack([dy, np.zeros_like(dy), dy * padded[1] * channels], axis=1).astype(np.int64)
    segments = by_group.transpose(1, 0, 4, 5, 3, 2).reshape(1, -1, kernel_width * channels, outputs)
    shape = ConvShape(batch, padded[0], padded[1], channels, out_height, out_width, *stride)
    if not any(pads):
        return _prepare(shape, taps, segments, activations, output, bias, level)
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("padded"), "height": height, "width": width, "pixel": channels, "top": top,
        "left": left, "padded_height": padded[0], "padded_width": padded[1],
        "zero_point": activations.zero_point & 0xFF,
    }  # fmt: skip
    copy = Step(PAD, arguments, tiles=batch * padded[0], grain=8)
    routine = _prepare(shape, taps, segments, activations, output, bias, level, source="padded")
    size = batch * padded[0] * padded[1] * channels
    return Routine((copy, *routine.steps), {"padded": size, **routine.temporaries}, routine.packed_bytes)


def _prepare(
    shape: ConvShape, taps: npt.NDArray[np.int64], weights: Array, activations: Activations, output: Epilogue,
    bias: Array | None, level: Level, source: str = "x",
) -> Routine:  # fmt: skip
    """`weights`: s8 [groups, planes · taps, depth, channels of a group]."""
    groups, segments, depth, channels = weights.shape
    tap_count = len(taps)
    macs = shape.rows * tap_count * depth * groups * channels
    if shape.rows == 0 or channels == 0:
        return Routine(())
    cut = cut_rows(shape.rows, _tallest(level, channels))
    quads = whole_quads(depth, cut.tall * level.vectors) if segments == 1 else -(-depth // GROUP)
    dynamic = isinstance(output, FloatOutput) and output.dynamic
    zero_point = 0 if dynamic else activations.zero_point
    offset = activations.flip + zero_point
    builder = PanelBuilder(level, activations.flip != 0, offset, output, cut)
    panels = builder.build(weights, quads, bias, groups * channels)
    panel_count = len(panels.records.words)
    element = 1 if isinstance(output, Requantize) else 4
    row_bytes = shape.pixel * shape.stride_y * shape.stride_x + 8 * segments
    block = min(_BLOCK_BYTES // (row_bytes * cut.tall), _TABLE_BYTES // (8 * segments * cut.tall))
    cut = cut.in_blocks(block)
    cut = cut.in_blocks(-(-cut.tiles // cut.blocks))  # as even as can be
    chunks = max(1, min(panel_count, -(-_UNITS // cut.blocks))) if macs > _SPLIT_MACS else 1
    scratch = whole_lines(8 * segments * cut.tall * cut.block * (2 if panels.wide else 1))
    border = np.full(quads * GROUP * groups + 64, zero_point & 0xFF, np.uint8)
    requantized = output if isinstance(output, Requantize) else None
    arguments: dict[str, Argument] = {
        "x": Buffer(source),
        "x_wide": Buffer("wide") if panels.wide else 0,
        "y": Buffer("y"),
        "residual": Buffer("residual") if requantized and requantized.residual else 0,
        "row_scales": Buffer("row_scales") if dynamic else np.ones(shape.rows if element == 4 else 1, np.float32),
        "row_zeros": Buffer("row_zeros") if dynamic else np.zeros(shape.rows if element == 4 else 1, np.int32),
        "border": border,
        "border_wide": (border ^ activations.flip).astype(np.int16),
        "table": _table(requantized, level),
        "panels": panels.records,
        "taps": taps,
        "shape": shape,
        "cut": cut,
        "sizes": ProductSizes(
            tap_count, segments // tap_count, chunks, panel_count, element, groups * channels * element,
            groups * channels, int(panels.wide),
        ),
        "scratch": SCRATCH,
        "scratch_bytes": scratch,
    }  # fmt: skip
    steps = [Step(MULTIPLY, arguments, tiles=cut.blocks * chunks, scratch=scratch, macs=macs)]
    temporaries = {}
    if panels.wide:
        count = shape.batch * shape.height * shape.width * shape.pixel
        widening: dict[str, Argument] = {
            "x": Buffer(source), "y": Buffer("wide"), "count": count, "flip": activations.flip
        }  # fmt: skip
        steps.insert(0, Step(WIDEN, widening, tiles=-(-count // _WIDEN_TILE)))
        temporaries["wide"] = 2 * count
    return Routine(tuple(steps), temporaries, panels.records.nbytes)


def _planes(weights: Array, zero_point: Array) -> npt.NDArray[np.int8]:
    """The weights less their zero point as a sum of s8 planes, stacked in front; s8 with zero point 0 uncopied."""
    if weights.dtype == np.int8 and not zero_point.any():
        return weights[None]
    return split_planes(np.asarray(weights, np.int32) - zero_point.astype(np.int32))


def _tallest(level: Level, channels: int) -> int:
    """Rows of a register tile: more where a single vector holds all channels, to keep as many independent sums."""
    single = channels <= level.lanes and level.dot != "widen"
    return level.rows * level.vectors if single else level.rows


def _table(output: Requantize | None, level: Level) -> Argument:
    """The table that the driver applies to written codes; 0 where there is none or register tiles apply it."""
    if output is None or output.table is None or looks_up(level):
        return 0
    return np.ascontiguousarray(output.table).view(np.uint8).copy()
