"""Panels: a product's weights in the order of a register tile's loads, each with a record of its constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.compiler import Kernel, MicroKernel
from graphopt.kernels.core.levels import Level
from graphopt.kernels.core.linked_table import LinkedTable
from graphopt.kernels.core.memory import Array, Words, aligned_copy, constant_memory, float_bits
from graphopt.kernels.core.steps import Step
from graphopt.kernels.core.struct_layouts import Panel
from graphopt.kernels.products.epilogue import Epilogue, FloatOutput, Requantize
from graphopt.kernels.products.packing import GROUP, split_unsafe
from graphopt.kernels.products.requantization import code_form, residual_form, write_requantization
from graphopt.kernels.products.tiles import RowTiles
from graphopt.kernels.tensors.lookup import aligned_table, looks_up

_WHOLE_SEGMENT = 6  # quads of a segment that is unrolled whole (effect: `python -m tests.bench.kernels --only conv`)
_STRIDES = ("group_stride", "segment_stride", "depth_stride", "channel_stride")
_PACK = Kernel(
    "graphopt.kernels.loops.products.packing:pack_panels",
    {
        "w": "i64", "y": "i64", "sums": "i32*", "panels": "i64*",
        **dict.fromkeys((*_STRIDES, "segments", "depth", "quads", "channels"), "i64"),
    },
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Panels:
    """`records` int64 [panels, Panel.WORDS], `widths` in channels; `wide`: some groups read widened activations."""

    records: LinkedTable
    widths: Words
    wide: bool


@dataclass(frozen=True, slots=True)
class PanelBuilder:
    """Builds the panels of one product for a level, an epilogue and the heights of its row tiles."""

    level: Level
    signed: bool
    offset: int  # stored activation less its value: flip and zero point
    output: Epilogue
    cut: RowTiles
    row_terms: bool = False  # each row has a term of its own to subtract, whatever the output

    def build(self, weights: npt.NDArray[np.int8], quads: int, bias: Array | None, y_stride: int) -> Panels:
        """`weights`: s8 [groups, segments, depth, channels] in any strides; `quads` of four depths are stored."""
        groups, segments, depth, channels = weights.shape
        cuts = self._cuts(groups, channels)
        widths = cuts[:, 3]
        sizes = segments * quads * GROUP * widths
        cuts[:, 4] = np.cumsum(sizes) - sizes
        packed = constant_memory(int(sizes.sum()))
        sums = np.zeros(groups * channels, np.int32)
        arguments = {
            "w": int(weights.ctypes.data), "y": int(packed.ctypes.data), "sums": sums, "panels": cuts,
            **dict(zip(_STRIDES, weights.strides)),
            "segments": segments, "depth": depth, "quads": quads, "channels": channels,
        }  # fmt: skip
        Step(_PACK, arguments, tiles=len(cuts)).run()
        table = LinkedTable(np.zeros((len(cuts), Panel.WORDS), np.int64))
        table.link_column(Panel.WEIGHTS, packed, cuts[:, 4])
        table.link_column(Panel.FLIP, aligned_copy(np.full(64, 0x80, np.uint8)))
        records = table.words
        records[:, Panel.SEGMENTS] = segments
        records[:, Panel.OFFSET] = cuts[:, 0] * depth
        records[:, Panel.FIRST] = cuts[:, 0] * channels + cuts[:, 1]
        records[:, Panel.CHANNELS] = cuts[:, 2]
        records[:, Panel.Y_STRIDE] = y_stride * (1 if isinstance(self.output, Requantize) else 4)
        records[:, Panel.R_STRIDE] = groups * channels
        self._channels(table, widths, sums, bias)
        self._epilogue(table)
        wide = self._safety(table, cuts, packed, segments, quads)
        self._kernels(table, widths, segments, quads)
        return Panels(table, widths.copy(), wide)

    def _cuts(self, groups: int, channels: int) -> Words:
        """(group, first channel in it, channels, width, 0) of every panel; the last of a group may be narrower."""
        lanes, cuts = self.level.lanes, []
        start = 0
        while start < channels:
            vectors = self.level.vectors
            while vectors > 1 and channels - start <= lanes * vectors // 2:
                vectors //= 2
            count = min(channels - start, vectors * lanes)
            cuts.append((start, count, vectors * lanes))
            start += count
        return np.array([(g, *cut, 0) for g in range(groups) for cut in cuts], np.int64).reshape(-1, 5)

    def _channels(self, table: LinkedTable, widths: Words, sums: npt.NDArray[np.int32], bias: Array | None) -> None:
        """Constants of each channel (bias, scale, sum of weights), padded with zeros to the panels' widths."""
        records = table.words
        begins = np.cumsum(widths) - widths
        counts = records[:, Panel.CHANNELS]
        places = np.arange(len(sums)) + np.repeat(begins - records[:, Panel.FIRST], counts)

        def place(word: int, values: Array, dtype: npt.DTypeLike) -> None:
            whole = np.zeros(int(widths.sum()), dtype)
            whole[places] = values
            table.link_column(word, aligned_copy(whole), begins * whole.itemsize)

        dynamic = isinstance(self.output, FloatOutput) and self.output.dynamic
        folded = (0 if bias is None else np.asarray(bias, np.int64)) - np.int64(self.offset) * sums.astype(np.int64)
        place(Panel.BIAS, folded.astype(np.int32), np.int32)
        if isinstance(self.output, (Requantize, FloatOutput)):
            place(Panel.SCALE, np.asarray(self.output.scale, np.float32), np.float32)
        if isinstance(self.output, FloatOutput):
            place(Panel.FLOAT_BIAS, np.asarray(0 if self.output.bias is None else self.output.bias), np.float32)
            # A dynamic row's zero point refers to the stored bytes: BIAS only undoes the flip.
            place(Panel.SUMS, sums if dynamic else np.zeros(1, np.int32), np.int32)

    def _epilogue(self, table: LinkedTable) -> None:
        records = table.words
        if isinstance(self.output, FloatOutput):
            records[:, Panel.LOW] = float_bits(self.output.low)
            records[:, Panel.HIGH] = float_bits(self.output.high)
        if isinstance(self.output, Requantize):
            one = np.zeros(Panel.WORDS, np.int64)
            write_requantization(one, self.output)
            records += one
            if self.output.table is not None and looks_up(self.level):
                table.link_column(Panel.TABLE, aligned_table(self.output.table))

    def _safety(self, table: LinkedTable, cuts: Words, packed: Array, segments: int, quads: int) -> bool:
        """Reorder the panels in which int16 pairs could overflow; True if any panel could."""
        if self.level.dot != "vpmaddubsw":
            return False
        reordered = False
        for panel, (_, _, _, width, begin) in enumerate(cuts.tolist()):
            size = segments * quads * GROUP * width
            dense = packed[begin : begin + size].view(np.int8).reshape(segments, quads, width, GROUP)
            split = split_unsafe(dense)
            if split is None:
                continue
            reordered = True
            dense.reshape(-1)[:] = split.weights
            table.link(panel * Panel.WORDS + Panel.COUNTS, aligned_copy(split.counts))
            table.link(panel * Panel.WORDS + Panel.DEPTHS, aligned_copy(split.depths))
        return reordered

    def _kernels(self, table: LinkedTable, widths: Words, segments: int, quads: int) -> None:
        records = table.words
        kind = "f32" if isinstance(self.output, FloatOutput) else "i32"
        residual = ""
        if isinstance(self.output, Requantize):
            kind = code_form(self.output) if self.level.lanes == 16 else "q8"
            residual = residual_form(self.output)
        looked_up = bool(records[:, Panel.TABLE].any())
        hybrids = (records[:, Panel.COUNTS] != 0).tolist()
        variants = list(zip(widths.tolist(), records[:, Panel.CHANNELS].tolist(), hybrids, strict=True))
        for variant in dict.fromkeys(variants):
            width, stored, hybrid = variant
            panels = np.flatnonzero([own == variant for own in variants])
            vectors = width // self.level.lanes
            unroll = self._unroll(vectors, segments, quads)
            options = (self.signed, kind, residual, looked_up, stored, self.row_terms)
            form, steps = ("hybrid", 1) if hybrid else (self.level.dot, unroll)
            for word, rows in ((Panel.BIG, self.cut.tall), (Panel.SMALL, self.cut.tall - 1))[
                : 2 if self.cut.uneven else 1
            ]:
                tile = MicroKernel(
                    "graphopt.kernels.micro.tile:emit", (self.level.name, form, rows, vectors, steps, *options)
                )
                table.link(panels * Panel.WORDS + word, tile)
            records[panels, Panel.STEPS] = quads // unroll

    def _unroll(self, vectors: int, segments: int, quads: int) -> int:
        """Quads of an unrolled step: more for few dependent sums, all quads for short segments."""
        if segments > 1 and quads <= _WHOLE_SEGMENT:
            return quads
        if self.cut.tall * vectors < 8 and quads % 4 == 0:
            return 4
        return 2 if quads % 2 == 0 else 1
