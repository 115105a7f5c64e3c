"""Preparation of depthwise convolution: weights packed for the selected level, one step for the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from graphopt.kernels.core.compiler import Kernel, MicroKernel
from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.core.linked_table import LinkedTable
from graphopt.kernels.core.memory import SLACK, Array, aligned_empty, float_bits, whole_lines
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.core.struct_layouts import DepthwiseRecord
from graphopt.kernels.layout.moves import gather_channels_step
from graphopt.kernels.products.epilogue import Requantize, is_signed
from graphopt.kernels.tensors.lookup import aligned_table, table_look_up
from graphopt.kernels.tensors.windows import Image, Window, WindowRecord

Form = Literal["quads", "pairs", "single"]


class TapSlots(NamedTuple):
    """Slots of the pointer table, strides of a tap's slot by row and column; the range of outputs without padding."""

    slots: int
    row: int
    column: int
    first_inner: int
    last_inner: int


DEPTHWISE = Kernel(
    "graphopt.kernels.loops.products.depthwise:depthwise",
    {
        "x": "u8*", "y": "u8*", "records": "u8*", "blocks": "i64", "zero_row": "u8*", "window": WindowRecord,
        "taps": TapSlots, "lookup": "i64", "table": "u8*", "scratch": "i64", "scratch_bytes": "i64",
    },
)  # fmt: skip

_GROUP = {"quads": 4, "pairs": 2, "single": 1}  # taps that one instruction sums
_NARROWEST = 16  # channels a micro-kernel computes at least


def prepare_depthwise(
    image: Image, window: Window, weights: Array, scale: Array, *, x_zero_point: int, x_signed: bool = False,
    weight_zero_point: Array | int = 0, bias: Array | None = None, y_zero_point: int = 0, y_signed: bool = False,
    clamp: tuple[int, int] | None = None, table: Array | None = None,
) -> Routine:  # fmt: skip
    """ONNX QLinearConv (or Conv between DequantizeLinear and QuantizeLinear) with group = input channels.

    x: image.shape bytes (u8, or s8 if `x_signed`); y: window.output(image) with C · m channels, output channel c reads
    input channel c // m. weights: u8 or s8 [C · m, kernel height, kernel width]; weight_zero_point: one or [C · m];
    bias: int32 [C · m] in units of x_scale · w_scale; scale: float32 [C · m], x_scale · w_scale / y_scale.

    y = saturate(round_half_even(float32(Σ (x − x_zero_point)(w − w_zero_point) + bias) · scale) + y_zero_point), the
    sum exact in int32 for every value, padding being the zero point; `clamp` narrows y to those codes (Relu, Clip);
    `table`, 256 bytes indexed by a code's bits, then maps every code of y. Raises ValueError for shapes that disagree.
    """
    multiplier, rest = divmod(len(weights), image.channels) if image.channels else (0, 1)
    if rest or multiplier < 1 or weights.shape[1:] != window.kernel or window.ceil_mode:
        raise ValueError(f"weights {weights.shape} do not fit {image.channels} channels and {window}")
    if not len(scale) == len(weights) or (bias is not None and len(bias) != len(weights)):
        raise ValueError(f"scale and bias must have {len(weights)} entries")
    low, high = (None, None) if clamp is None else clamp
    dtype = np.int8 if y_signed else np.uint8
    output = Requantize(np.asarray(scale, np.float32), y_zero_point, dtype, low, high, table=table)
    level = select_level()
    taps = weights.astype(np.int16) - np.reshape(np.asarray(weight_zero_point, np.int16), (-1, 1, 1))
    form = _form(level, taps)
    shift = 128 if x_signed and form == "quads" else 0
    folded = np.zeros(len(taps), np.int64) if bias is None else np.asarray(bias, np.int64)
    folded = folded - (x_zero_point + shift) * taps.sum((1, 2), np.int64)
    spread = Image(image.batch, image.height, image.width, len(weights))
    x = Buffer("x") if multiplier == 1 else Buffer("spread")
    step = _step(level, form, spread, window, taps, folded.astype(np.int32), output, (x, x_zero_point, x_signed))
    if multiplier == 1:
        return Routine((step,), packed_bytes=_packed_bytes(step))
    index = np.repeat(np.arange(image.channels, dtype=np.int32), multiplier)
    gather = gather_channels_step(image.batch * image.height * image.width, image.channels, index, Buffer("x"), x)
    return Routine((gather, step), {"spread": spread.size}, _packed_bytes(step))


def _form(level: Level, taps: Array) -> Form:
    """The fastest exact dot product: four s8 at a time, two int16 at a time, or one by one."""
    if level.dot == "widen":
        return "single"
    narrow = bool(np.all((taps >= -128) & (taps <= 127)))
    return "quads" if level.dot == "vpdpbusd" and narrow else "pairs"


def _arrangement(window: Window, group: int) -> tuple[int, int, int, int]:
    """Columns of taps, rows per column (filled up to groups), of them real, and columns new to each pixel.

    Windows that share columns with the next pixel keep these in registers; others are one column of all taps.
    """
    height, width = window.kernel
    if window.strides[1] < width and window.dilations[1] == 1 and height > 1 and group > 1:
        return width, -(-height // group) * group, height, window.strides[1]
    return 1, -(-window.taps // group) * group, window.taps, 1


def _step(
    level: Level, form: Form, image: Image, window: Window, taps: Array, bias: Array, output: Requantize,
    source: tuple[Buffer, int, bool],
) -> Step:  # fmt: skip
    x, x_zero_point, x_signed = source
    group = _GROUP[form]
    columns, rows, real, fresh = _arrangement(window, group)
    height, width = window.kernel
    slot_h, slot_w = (1, rows) if columns > 1 else (width, 1)
    filled = np.zeros((image.channels, columns * rows), np.int16)
    for h in range(height):
        for w in range(width):
            filled[:, h * slot_h + w * slot_w] = taps[:, h, w]
    step_bytes = window.strides[1] * image.channels
    blocks = [
        _Block(form, first, wide, stored, (columns, rows, real, fresh), (x_signed, is_signed(output.dtype)))
        for first, wide, stored in _blocks(level, form, image.channels)
    ]
    out = window.output(image)
    # In a run only newly read columns must lie inside the image.
    first_inner, last_inner = window.interior(1, image.width, columns - fresh if columns > 1 else 0)
    blank = aligned_empty((max(1, last_inner - first_inner) * window.strides[1] + 1) * image.channels + SLACK)
    blank[:] = x_zero_point & 0xFF
    scratch = whole_lines(8 * columns * rows)
    arguments: dict[str, Argument] = {
        "x": x, "y": Buffer("y"), "records": _pack(blocks, filled, bias, output, step_bytes),
        "blocks": len(blocks), "zero_row": blank, "window": window.record(image),
        "taps": TapSlots(columns * rows, slot_h, slot_w, first_inner, last_inner),
        "lookup": 0 if output.table is None else table_look_up(),
        "table": 0 if output.table is None else aligned_table(output.table),
        "scratch": SCRATCH, "scratch_bytes": scratch,
    }  # fmt: skip
    tiles = out.batch * out.height if out.width else 0
    return Step(DEPTHWISE, arguments, tiles, scratch=scratch, macs=out.size * window.taps)


def _packed_bytes(step: Step) -> int:
    return sum(v.nbytes for v in step.arguments.values() if isinstance(v, (np.ndarray, LinkedTable)))


def _blocks(level: Level, form: Form, channels: int) -> list[tuple[int, int, int]]:
    """(first channel, channels computed, channels stored): the widest first, the last overlapping the one before."""
    widths = [64, 32, 16] if form == "quads" and level.lanes == 16 else [32, 16] if form == "quads" else [16]
    blocks = []
    first = 0
    while first < channels:
        left = channels - first
        width = next((width for width in widths if width <= left), _NARROWEST)
        if left < _NARROWEST <= channels:
            first, left = channels - _NARROWEST, _NARROWEST
        blocks.append((first, width, min(width, left)))
        first += width
    return blocks


@dataclass(frozen=True, slots=True)
class _Block:
    form: Form
    first: int
    width: int
    stored: int
    arrangement: tuple[int, int, int, int]  # columns, rows, real rows, fresh columns
    signed: tuple[bool, bool]

    def order(self) -> Array:
        """The block's channels in the order of the micro-kernel's int32 lanes."""
        if self.form == "single":
            return np.arange(self.width)
        parts = 4 if self.form == "quads" else 2
        per = self.width if self.form == "quads" else 16  # channels interleaved together
        lanes = np.arange(per).reshape(-1, parts, 4).transpose(1, 0, 2).reshape(-1)
        return np.concatenate([base + lanes for base in range(0, self.width, per)])

    def weights(self, filled: Array) -> Array:
        """[columns, groups, channels in order, group] for the micro-kernel, from [channels, slots]."""
        columns, rows, _, _ = self.arrangement
        group = _GROUP[self.form]
        taken = np.zeros((self.width, filled.shape[1]), np.int16)
        taken[: self.stored] = filled[self.first : self.first + self.stored]
        packed = taken[self.order()].reshape(self.width, columns, rows // group, group).transpose(1, 2, 0, 3)
        return np.ascontiguousarray(packed, np.int8 if self.form == "quads" else np.int16)

    def channel_values(self, values: Array) -> Array:
        """Values per channel in the order of lanes, zero for channels that are not stored."""
        taken = np.zeros(self.width, values.dtype)
        taken[: self.stored] = values[self.first : self.first + self.stored]
        return taken[self.order()]

    def function(self) -> MicroKernel:
        """The micro-kernel."""
        variant = (self.form, self.width, self.stored, *self.arrangement, *self.signed)
        return MicroKernel("graphopt.kernels.micro.depthwise:emit", variant)


def _pack(blocks: list[_Block], filled: Array, bias: Array, output: Requantize, x_step: int) -> LinkedTable:
    """Records of all blocks, followed by the arrays that they point at, each on a cache line."""
    head = np.zeros((len(blocks), DepthwiseRecord.WORDS), np.int64)
    low, high = (float_bits(limit - output.zero_point) for limit in output.limits)
    parts: list[tuple[int, Array]] = []
    end = whole_lines(head.nbytes)
    for index, block in enumerate(blocks):
        record = head[index]
        own = {
            DepthwiseRecord.WEIGHTS: block.weights(filled),
            DepthwiseRecord.BIAS: block.channel_values(bias),
            DepthwiseRecord.SCALE: block.channel_values(output.scale),
        }
        for word, values in own.items():
            record[word] = end - index * 8 * DepthwiseRecord.WORDS
            parts.append((end, values))
            end += whole_lines(values.nbytes)
        record[DepthwiseRecord.LOW], record[DepthwiseRecord.HIGH], record[DepthwiseRecord.ZERO] = (
            low,
            high,
            output.zero_point,
        )
        record[DepthwiseRecord.X_STEP], record[DepthwiseRecord.Y_STEP] = x_step, filled.shape[0]
        record[DepthwiseRecord.FIRST] = block.first
    packed = aligned_empty(end)
    packed[: head.nbytes] = head.reshape(-1).view(np.uint8)
    for place, values in parts:
        packed[place : place + values.nbytes] = values.reshape(-1).view(np.uint8)
    table = LinkedTable(packed.view(np.int64))
    for index, block in enumerate(blocks):
        table.link(index * DepthwiseRecord.WORDS + DepthwiseRecord.FUNCTION, block.function())
    return table
