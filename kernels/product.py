"""Preparation of matrix products and convolutions: one packing, one driver, one register tile for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.kernels.compiler import Kernel, MicroKernel
from graphopt.kernels.epilogue import Dequantize, Output, Requantize
from graphopt.kernels.levels import Level, select_level
from graphopt.kernels.packing import GROUP, PackedPanel, pack_dense, pack_pairs, split_planes
from graphopt.kernels.quantization import looks_up
from graphopt.kernels.records import Panel
from graphopt.kernels.requantization import code_form, float_bits, residual_form, write_requantization
from graphopt.kernels.steps import SCRATCH, Argument, Buffer, Routine, Step

Array = npt.NDArray[Any]

_BLOCK_BYTES = 256 * 1024  # of activations that one pass over the panels keeps in L2
_TABLE_BYTES = 64 * 1024
_NARROW_PIXEL = 33  # input channels below which whole lines of taps are read from a padded copy
_UNITS = 8  # shares of a step that two workers can divide evenly
_WIDEN_TILE = 16384
_WHOLE_SEGMENT = 6  # steps that a segment is unrolled by at most, so that it needs no loop

# fmt: off
_FIELDS = (
    "x", "x_wide", "y", "residual", "row_scales", "row_zeros", "border", "border_wide", "table", "panels", "taps",
    "tap_count", "planes", "height", "width", "pixel", "out_height", "out_width", "stride_y", "stride_x", "pad_y",
    "pad_x", "tall", "tall_tiles", "tiles", "block", "chunks", "panel_count", "element", "y_pixel", "r_pixel", "wide",
    "scratch", "scratch_bytes",
)
# fmt: on
MULTIPLY = Kernel(
    "graphopt.kernels.loops.product:multiply",
    {name: "i64*" if name in ("panels", "taps") else "i64" for name in _FIELDS},
)
WIDEN = Kernel("graphopt.kernels.loops.product:widen", {"x": "u8*", "y": "i64", "count": "i64", "flip": "u8"})
PAD = Kernel(
    "graphopt.kernels.loops.product:pad",
    dict.fromkeys(
        ("x", "y", "height", "width", "pixel", "top", "left", "padded_height", "padded_width", "zero_point"), "i64"
    ),
)


@dataclass(frozen=True, slots=True)
class Activations:
    """How the product's input is stored: uint8 or int8, and the value that means zero (ignored for dynamic rows)."""

    dtype: Any
    zero_point: int = 0

    @property
    def flip(self) -> int:
        """The mask that makes the stored byte unsigned."""
        return 128 if np.dtype(self.dtype) == np.int8 else 0


@dataclass(frozen=True, slots=True)
class _Image:
    """A convolution's geometry, in pixels of `pixel` bytes; a matrix product is one line of rows and a single tap."""

    batch: int
    height: int
    width: int
    pixel: int
    out_height: int
    out_width: int
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)

    @property
    def rows(self) -> int:
        return self.batch * self.out_height * self.out_width


def prepare_matmul(
    rows: int,
    weights: Array,
    activations: Activations,
    output: Output,
    *,
    bias: Array | None = None,
    weight_zero_point: int | Array = 0,
    transposed: bool = False,
    y_stride: int | None = None,
    source: str = "x",
    level: Level | None = None,
) -> Routine:
    """y[rows, N] = epilogue(Σ_k (x[m, k] − x_zero) · (w[k, n] − w_zero[n]) + bias[n]).

    x is u8 or s8 [rows, K] in buffer x; `weights` is s8 or u8 [K, N] ([N, K] if `transposed`); bias is int32 [N]. A
    batch of matrices that share their weights is so many more rows. `y_stride` is the length of an output row in
    elements when y is part of something wider; `source` is the buffer that x lies in.
    """
    matrix = np.asarray(weights, np.int32).T if transposed else np.asarray(weights, np.int32)
    depth, channels = matrix.shape
    centred = (matrix - np.asarray(weight_zero_point, np.int32)).reshape(1, 1, depth, channels)
    image = _Image(1, 1, max(rows, 1), depth, 1, rows)
    taps = np.zeros((1, 3), np.int64)
    return _prepare(image, taps, centred, activations, output, bias, y_stride, level or select_level(), source)


def prepare_conv(
    x_shape: Sequence[int],
    weights: Array,
    activations: Activations,
    output: Output,
    *,
    bias: Array | None = None,
    weight_zero_point: int | Array = 0,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
    y_stride: int | None = None,
    level: Level | None = None,
) -> Routine:
    """QLinearConv / ConvInteger on NHWC images.

    x_shape is (N, H, W, C), weights are [O, C / groups, KH, KW] as in ONNX, s8 or u8 with a zero point per tensor or
    per output channel; pads are (top, left, bottom, right), filled with the activations' zero point; y is
    [N, OH, OW, O] (a pixel of y is `y_stride` elements wide when y is part of a concatenation). A 1-D convolution has
    H = KH = 1. Raises ValueError when the shapes do not fit together.
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
    zero = np.broadcast_to(np.asarray(weight_zero_point, np.int32), (outputs,))
    centred = np.asarray(weights, np.int32) - zero[:, None, None, None]
    by_group = centred.reshape(groups, outputs // groups, depth, kernel_height, kernel_width)
    narrow = groups == 1 and kernel_width > 1 and dilations[1] == 1 and channels < _NARROW_PIXEL
    stride = (int(strides[0]), int(strides[1]))
    if not narrow:
        rows, columns = np.divmod(np.arange(kernel_height * kernel_width), kernel_width)
        dy, dx = rows * dilations[0], columns * dilations[1]
        taps = np.stack([dy, dx, (dy * width + dx) * channels], axis=1).astype(np.int64)
        segments = by_group.transpose(0, 3, 4, 2, 1).reshape(groups, len(taps), depth, outputs // groups)
        image = _Image(batch, height, width, channels, out_height, out_width, stride, (top, left))
        return _prepare(image, taps, segments, activations, output, bias, y_stride, level)
    padded = (height + top + bottom, width + left + right)
    dy = np.arange(kernel_height) * dilations[0]
    taps = np.stack([dy, np.zeros_like(dy), dy * padded[1] * channels], axis=1).astype(np.int64)
    segments = by_group.transpose(0, 3, 4, 2, 1).reshape(1, kernel_height, kernel_width * channels, outputs)
    image = _Image(batch, padded[0], padded[1], channels, out_height, out_width, stride)
    if not any(pads):
        return _prepare(image, taps, segments, activations, output, bias, y_stride, level)
    arguments: dict[str, Argument] = {
        "x": Buffer("x"), "y": Buffer("padded"), "height": height, "width": width, "pixel": channels, "top": top,
        "left": left, "padded_height": padded[0], "padded_width": padded[1],
        "zero_point": activations.zero_point & 0xFF,
    }  # fmt: skip
    copy = Step(PAD, arguments, tiles=batch * padded[0], grain=8)
    routine = _prepare(image, taps, segments, activations, output, bias, y_stride, level, source="padded")
    size = batch * padded[0] * padded[1] * channels
    return Routine((copy, *routine.steps), {"padded": size, **routine.temporaries}, routine.packed_bytes)


def _prepare(
    image: _Image,
    taps: npt.NDArray[np.int64],
    weights: Array,
    activations: Activations,
    output: Output,
    bias: Array | None,
    y_stride: int | None,
    level: Level,
    source: str = "x",
) -> Routine:
    """`weights`: int32 [groups, taps, depth, channels of a group], zero point taken off."""
    groups, tap_count, depth, group_channels = weights.shape
    channels = groups * group_channels
    macs = image.rows * tap_count * depth * channels
    if image.rows == 0 or channels == 0:
        return Routine(())
    planes = split_planes(weights)
    tiles = -(-image.rows // _tallest(level, group_channels))
    tall = -(-image.rows // tiles)
    tall_tiles = image.rows - tiles * (tall - 1)
    segments = len(planes) * tap_count
    quads = -(-depth // GROUP)
    if segments == 1:
        quads += -quads % (4 if tall * level.vectors < 8 else 2)
    stored = np.zeros((groups, segments, quads * GROUP, group_channels), np.int8)
    stored[:, :, :depth] = planes.transpose(1, 0, 2, 3, 4).reshape(groups, segments, depth, group_channels)
    builder = _Panels(level, activations, output, tall, tall_tiles < tiles)
    builder.add_all(stored, depth, weights.sum(axis=(1, 2)).reshape(-1), bias, y_stride or channels)
    table = np.stack(builder.records)
    element = 1 if isinstance(output, Requantize) else 4
    row_bytes = image.pixel * image.strides[0] * image.strides[1] + 8 * segments
    block = max(1, min(_BLOCK_BYTES // (row_bytes * tall), _TABLE_BYTES // (8 * segments * tall), tiles))
    blocks = -(-tiles // block)
    block = -(-tiles // blocks)
    blocks = -(-tiles // block)
    chunks = max(1, min(len(table), -(-_UNITS // blocks))) if macs > 1 << 20 else 1
    pointer_bytes = 8 * segments * tall * block * (2 if builder.wide else 1)
    scratch = -(-pointer_bytes // 64) * 64
    zero_point = 0 if isinstance(output, Dequantize) and output.dynamic else activations.zero_point
    border = np.full(quads * GROUP * groups + 64, zero_point & 0xFF, np.uint8)
    dynamic = isinstance(output, Dequantize) and output.dynamic
    requantized = output if isinstance(output, Requantize) else None
    arguments: dict[str, Argument] = {
        "x": Buffer(source),
        "x_wide": Buffer("wide") if builder.wide else 0,
        "y": Buffer("y"),
        "residual": Buffer("residual") if requantized and requantized.residual else 0,
        "row_scales": Buffer("row_scales") if dynamic else np.ones(image.rows if element == 4 else 1, np.float32),
        "row_zeros": Buffer("row_zeros") if dynamic else np.zeros(image.rows if element == 4 else 1, np.int32),
        "border": border,
        "border_wide": (border ^ activations.flip).astype(np.int16),
        "table": 0 if builder.table else _table(requantized),
        "panels": _Kept.of(table, builder.keep),
        "taps": taps,
        "tap_count": tap_count, "planes": len(planes), "height": image.height, "width": image.width,
        "pixel": image.pixel, "out_height": image.out_height, "out_width": image.out_width,
        "stride_y": image.strides[0], "stride_x": image.strides[1], "pad_y": image.pads[0], "pad_x": image.pads[1],
        "tall": tall, "tall_tiles": tall_tiles, "tiles": tiles, "block": block, "chunks": chunks,
        "panel_count": len(table), "element": element, "y_pixel": (y_stride or channels) * element,
        "r_pixel": channels, "wide": int(builder.wide), "scratch": SCRATCH,
        "scratch_bytes": scratch,
    }  # fmt: skip
    steps = [Step(MULTIPLY, arguments, tiles=blocks * chunks, scratch=scratch, macs=macs)]
    temporaries = {}
    if builder.wide:
        count = image.batch * image.height * image.width * image.pixel
        widening: dict[str, Argument] = {
            "x": Buffer(source), "y": Buffer("wide"), "count": count, "flip": activations.flip
        }  # fmt: skip
        steps.insert(0, Step(WIDEN, widening, tiles=-(-count // _WIDEN_TILE)))
        temporaries["wide"] = 2 * count
    return Routine(tuple(steps), temporaries, builder.packed_bytes)


def _tallest(level: Level, channels: int) -> int:
    """Rows of a register tile: more where a single vector holds all channels, so that as many sums are under way."""
    single = channels <= level.lanes and level.dot != "widen"
    return level.rows * level.vectors if single else level.rows


def _table(output: Requantize | None) -> Argument:
    if output is None or output.table is None:
        return 0
    return np.ascontiguousarray(output.table).view(np.uint8).copy()


class _Kept(np.ndarray):
    """An array of addresses that keeps what they point at alive."""

    kept: list[Array]

    @classmethod
    def of(cls, array: Array, kept: list[Array]) -> _Kept:
        view = np.ascontiguousarray(array).view(cls)
        view.kept = kept
        return view


class _Panels:
    """Builds the records of all panels and holds the arrays they point at."""

    def __init__(self, level: Level, activations: Activations, output: Output, tall: int, uneven: bool) -> None:
        self.level, self.activations, self.output = level, activations, output
        self.tall, self.uneven = tall, uneven
        self.records: list[npt.NDArray[np.int64]] = []
        self.keep: list[Array] = []
        self.packed_bytes = 0
        self.wide = False
        self.flip = self._address(np.full(64, 0x80, np.uint8))
        self.residual, self.table = "", 0
        if isinstance(output, Requantize):
            self.residual = residual_form(output)
            if output.table is not None and looks_up(level):
                self.table = self._address(np.ascontiguousarray(output.table))

    def _address(self, array: Array) -> int:
        """Address of a copy on a cache line, kept alive."""
        raw = np.zeros(array.nbytes + 128, np.uint8)
        start = -raw.ctypes.data % 64
        raw[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.keep.append(raw)
        self.packed_bytes += array.nbytes
        return int(raw.ctypes.data) + start

    def add_all(self, stored: npt.NDArray[np.int8], depth: int, sums: Array, bias: Array | None, y_stride: int) -> None:
        """Cut every group's channels into panels; `stored` is [groups, segments, depth padded, channels]."""
        groups, _, _, channels = stored.shape
        dynamic = isinstance(self.output, Dequantize) and self.output.dynamic
        offset = self.activations.flip + (0 if dynamic else self.activations.zero_point)
        folded = (0 if bias is None else np.asarray(bias, np.int64)) - np.int64(offset) * sums.astype(np.int64)
        folded = folded.astype(np.int32) if folded.ndim else np.full(groups * channels, folded, np.int32)
        for group in range(groups):
            start = 0
            while start < channels:
                rest = channels - start
                vectors = self.level.vectors
                while vectors > 1 and rest <= self.level.lanes * vectors // 2:
                    vectors //= 2
                width = vectors * self.level.lanes
                count = min(rest, width)
                columns = slice(group * channels + start, group * channels + start + count)
                panel = np.zeros((*stored.shape[1:3], width), np.int8)
                panel[:, :, :count] = stored[group, :, :, start : start + count]
                self._add(panel, vectors, columns, group * depth, folded, sums, y_stride)
                start += count

    def _pack(self, panel: npt.NDArray[np.int8]) -> PackedPanel:
        return pack_pairs(panel) if self.level.dot == "vpmaddubsw" else pack_dense(panel)

    def _add(
        self, panel: npt.NDArray[np.int8], vectors: int, columns: slice, offset: int, bias: Array, sums: Array,
        y_stride: int,
    ) -> None:  # fmt: skip
        segments, depth, width = panel.shape
        packed = self._pack(panel)
        steps = depth // GROUP
        unroll = 2 if steps % 2 == 0 else 1
        if self.tall * vectors < 8 and steps % 4 == 0:
            unroll = 4
        if segments > 1 and steps <= _WHOLE_SEGMENT:
            unroll = steps
        count = columns.stop - columns.start
        element = 1 if isinstance(self.output, Requantize) else 4

        def channelwise(values: Array, dtype: Any) -> int:
            whole = np.zeros(width, dtype)
            whole[:count] = np.broadcast_to(values, bias.shape)[columns]
            return self._address(whole)

        record = np.zeros(Panel.WORDS, np.int64)
        record[Panel.WEIGHTS] = self._address(packed.weights)
        record[Panel.SEGMENTS], record[Panel.STEPS], record[Panel.OFFSET] = segments, steps // unroll, offset
        record[Panel.Y_STRIDE] = y_stride * element
        record[Panel.R_STRIDE] = bias.size
        record[Panel.BIAS] = channelwise(bias, np.int32)
        record[Panel.FIRST], record[Panel.CHANNELS] = columns.start, count
        record[Panel.FLIP] = self.flip
        if packed.counts is not None and packed.depths is not None:
            self.wide = True
            record[Panel.COUNTS], record[Panel.DEPTHS] = self._address(packed.counts), self._address(packed.depths)
        if isinstance(self.output, Requantize):
            record[Panel.SCALE] = channelwise(np.asarray(self.output.scale, np.float32), np.float32)
            write_requantization(record, self.output)
            record[Panel.TABLE] = self.table
        if isinstance(self.output, Dequantize):
            record[Panel.SCALE] = channelwise(np.asarray(self.output.scale, np.float32), np.float32)
            addend = np.float32(0) if self.output.bias is None else self.output.bias
            record[Panel.FLOAT_BIAS] = channelwise(np.asarray(addend, np.float32), np.float32)
            # A dynamic row's zero point is of its bytes as stored, so the flip is all that BIAS had to take back.
            record[Panel.SUMS] = channelwise(sums if self.output.dynamic else np.zeros(1, np.int32), np.int32)
            record[Panel.LOW], record[Panel.HIGH] = float_bits(self.output.low), float_bits(self.output.high)
        form = "hybrid" if packed.counts is not None else self.level.dot
        record[Panel.BIG] = self._kernel(form, self.tall, vectors, unroll, count)
        record[Panel.SMALL] = self._kernel(form, self.tall - 1, vectors, unroll, count) if self.uneven else 0
        self.records.append(record)

    def _kernel(self, form: str, rows: int, vectors: int, unroll: int, stored: int) -> int:
        kind = "f32" if isinstance(self.output, Dequantize) else "i32"
        if isinstance(self.output, Requantize):
            kind = code_form(self.output) if self.level.lanes == 16 else "q8"
        signed = self.activations.flip != 0
        unroll = 1 if form == "hybrid" else unroll
        arguments = (
            self.level.name, form, rows, vectors, unroll, signed, kind, self.residual, bool(self.table), stored
        )  # fmt: skip
        return MicroKernel("graphopt.kernels.micro.tile:emit", arguments).address()
