"""Preparation of batched products of two quantized activations, such as attention's; both zero points are exact."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import NamedTuple

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.core.memory import whole_lines
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.core.struct_layouts import Panel
from graphopt.kernels.products.epilogue import Epilogue, Requantize
from graphopt.kernels.products.matmul_conv import Activations
from graphopt.kernels.products.packing import GROUP, whole_quads
from graphopt.kernels.products.panels import PanelBuilder
from graphopt.kernels.products.tiles import RowTiles, Strides, cut_rows

_LOOPS = "graphopt.kernels.loops.products.activation_product:"
_BLOCK_ROWS = 64  # rows of a unit of work: their bytes stay in L1 while the panels pass
MAX_DEPTH = 32768  # 255 · 255 · depth must fit int32


class PackedBatch(NamedTuple):
    """Sizes of the packed second operand: matrices of the inner batch axis, panels a matrix, bytes, zero points."""

    inner: int
    depth: int
    quads: int
    panels: int
    packed_bytes: int
    bias_bytes: int
    flip: int
    a_zero: int
    b_zero: int


PACK = Kernel(
    _LOOPS + "pack",
    {
        "b": "i64", "packed": "i64", "bias": "i64", "records": "i64", "template": "i64", "widths": "i64*",
        "strides": Strides, "sizes": PackedBatch,
    },
)  # fmt: skip
MULTIPLY = Kernel(
    _LOOPS + "multiply",
    {
        "a": "i64", "y": "i64", "records": "i64", "row_scales": "i64", "a_strides": Strides, "y_strides": Strides,
        "cut": RowTiles, "inner": "i64", "depth": "i64", "panels": "i64", "element": "i64", "flip": "u8",
        "b_zero": "i64", "scratch": "i64", "scratch_bytes": "i64",
    },
)  # fmt: skip


def prepare_activation_product(
    batch: tuple[int, int], sizes: tuple[int, int, int], a: Activations, b: Activations, output: Epilogue,
    places: tuple[Strides, Strides, Strides], *, level: Level | None = None,
) -> Routine:  # fmt: skip
    """y[o, i] = epilogue(Σ_k (a[o, i, m, k] − a_zero) · (b[o, i, k, n] − b_zero)) for o, i of `batch`.

    sizes: (m, k, n). a and b are u8 or s8 in buffers a and b, y goes to buffer y; `places` are their strides (0 repeats
    a matrix). The columns of a and y lie side by side, and either the columns or the rows of b do. Sums are exact in
    int32; the output is per tensor. Raises ValueError for other strides or a depth above 32,768.
    """
    rows, depth, channels = sizes
    left, right, target = places
    if left.column != 1 or target.column != 1 or 1 not in (right.row, right.column) or depth > MAX_DEPTH:
        raise ValueError(f"no kernel for a product of {sizes} at {places}")
    if prod(batch) * rows * channels == 0:
        return Routine(())
    level = level or select_level()
    if level.dot == "vpmaddubsw":  # exact only for constant weights, proved at packing
        level = replace(level, dot="vpmaddwd")
    cut = cut_rows(rows, level.rows)
    cut = cut.in_blocks(_BLOCK_ROWS // cut.tall)
    quads = whole_quads(depth, cut.tall * level.vectors)
    flip, b_flip = a.flip, 0 if np.dtype(b.dtype) == np.int8 else 128
    builder = PanelBuilder(level, flip != 0, 0, output, cut, row_terms=True)
    panels = builder.build(np.zeros((1, 1, 1, channels), np.int8), quads, None, target.row)
    template, widths = panels.records, panels.widths
    begins = np.cumsum(widths) - widths
    packed_bytes = GROUP * quads * int(widths.sum())
    template.replace_column(Panel.WEIGHTS, GROUP * quads * begins)  # from where each matrix is packed
    template.replace_column(Panel.BIAS, 4 * begins)
    template.replace_column(Panel.SUMS, 0)
    template.link_column(Panel.SUMS, np.ones(level.channels, np.int32))
    bias_bytes = 4 * int(widths.sum())
    count, matrices, inner = len(widths), prod(batch), batch[1]
    element = 1 if isinstance(output, Requantize) else 4
    scratch = whole_lines(12 * cut.block * cut.tall)
    b_zero = b.zero_point - (128 if b_flip else 0)
    sizes_of_b = PackedBatch(inner, depth, quads, count, packed_bytes, bias_bytes, b_flip, a.zero_point + flip, b_zero)
    packing: dict[str, Argument] = {
        "b": Buffer("b"), "packed": Buffer("packed"), "bias": Buffer("bias"), "records": Buffer("records"),
        "template": template, "widths": widths, "strides": right, "sizes": sizes_of_b,
    }  # fmt: skip
    multiplying: dict[str, Argument] = {
        "a": Buffer("a"), "y": Buffer("y"), "records": Buffer("records"),
        "row_scales": np.ones(level.rows * level.vectors, np.float32), "a_strides": left,
        "y_strides": target.in_bytes(element), "cut": cut, "inner": inner, "depth": depth, "panels": count,
        "element": element, "flip": flip, "b_zero": b_zero, "scratch": SCRATCH, "scratch_bytes": scratch,
    }  # fmt: skip
    macs = matrices * rows * depth * channels
    steps = (
        Step(PACK, packing, tiles=matrices * count),
        Step(MULTIPLY, multiplying, tiles=matrices * cut.blocks, scratch=scratch, macs=macs),
    )
    temporaries = {
        "packed": matrices * packed_bytes, "bias": matrices * bias_bytes, "records": 8 * Panel.WORDS * matrices * count,
    }  # fmt: skip
    return Routine(steps, temporaries, template.nbytes)
