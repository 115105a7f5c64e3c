"""Preparation of products of two activations, batched: attention's scores and weighted sums, both zero points exact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from graphopt.kernels.core.compiler import Kernel
from graphopt.kernels.core.levels import Level, select_level
from graphopt.kernels.core.steps import SCRATCH, Argument, Buffer, Routine, Step
from graphopt.kernels.core.struct_layouts import Panel
from graphopt.kernels.products.epilogue import Output, Requantize
from graphopt.kernels.products.matmul_conv import Activations
from graphopt.kernels.products.packing import GROUP
from graphopt.kernels.products.panels import PanelBuilder

_LOOPS = "graphopt.kernels.loops.products.activation_product:"
_BLOCK_ROWS = 64  # rows of a unit of work: their bytes stay in L1 while the panels pass
MAX_DEPTH = 32768  # 255 · 255 · depth must fit int32

# fmt: off
_WORDS = ("b", "packed", "bias", "records", "template", "widths", "inner", "b_outer", "b_inner", "b_row", "b_column",
          "depth", "quads", "panel_count", "packed_bytes", "bias_bytes", "flip", "a_zero", "b_zero")
PACK = Kernel(_LOOPS + "pack", {name: "i64*" if name == "widths" else "i64" for name in _WORDS})
_FIELDS = ("a", "y", "records", "inner", "a_outer", "a_inner", "a_row", "y_outer", "y_inner", "y_row", "element",
           "depth", "tall", "tall_tiles", "tiles", "block", "blocks", "panel_count", "flip", "b_zero", "row_scales",
           "scratch", "scratch_bytes")
MULTIPLY = Kernel(_LOOPS + "multiply", {name: "u8" if name == "flip" else "i64" for name in _FIELDS})
# fmt: on


@dataclass(frozen=True, slots=True)
class Strides:
    """Where the matrices of a batch lie in their buffer, in elements: steps of both batch axes, of rows, of columns."""

    outer: int
    inner: int
    row: int
    column: int


def prepare_activation_product(
    batch: tuple[int, int], sizes: tuple[int, int, int], a: Activations, b: Activations, output: Output,
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
    if level.dot == "vpmaddubsw":  # whose safety can only be proved of weights seen beforehand
        level = replace(level, dot="vpmaddwd")
    tiles = -(-rows // level.rows)
    tall = -(-rows // tiles)
    tall_tiles = rows - tiles * (tall - 1)
    quads = -(-depth // GROUP)
    quads += -quads % (4 if tall * level.vectors < 8 else 2)
    flip, b_flip = a.flip, 0 if np.dtype(b.dtype) == np.int8 else 128
    builder = PanelBuilder(level, flip != 0, 0, output, tall, tall_tiles < tiles, row_terms=True)
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
    block = max(1, min(tiles, _BLOCK_ROWS // tall))
    blocks = -(-tiles // block)
    element = 1 if isinstance(output, Requantize) else 4
    scratch = -(-12 * block * tall // 64) * 64
    b_zero = b.zero_point - (128 if b_flip else 0)
    packing: dict[str, Argument] = {
        "b": Buffer("b"), "packed": Buffer("packed"), "bias": Buffer("bias"), "records": Buffer("records"),
        "template": template, "widths": widths, "inner": inner, "b_outer": right.outer,
        "b_inner": right.inner, "b_row": right.row, "b_column": right.column, "depth": depth, "quads": quads,
        "panel_count": count, "packed_bytes": packed_bytes, "bias_bytes": bias_bytes, "flip": b_flip,
        "a_zero": a.zero_point + flip, "b_zero": b_zero,
    }  # fmt: skip
    multiplying: dict[str, Argument] = {
        "a": Buffer("a"), "y": Buffer("y"), "records": Buffer("records"), "inner": inner, "a_outer": left.outer,
        "a_inner": left.inner, "a_row": left.row, "y_outer": element * target.outer, "y_inner": element * target.inner,
        "y_row": element * target.row, "element": element, "depth": depth, "tall": tall, "tall_tiles": tall_tiles,
        "tiles": tiles, "block": block, "blocks": blocks, "panel_count": count, "flip": flip, "b_zero": b_zero,
        "row_scales": np.ones(level.rows * level.vectors, np.float32), "scratch": SCRATCH, "scratch_bytes": scratch,
    }  # fmt: skip
    steps = (
        Step(PACK, packing, tiles=matrices * count),
        Step(MULTIPLY, multiplying, tiles=matrices * blocks, scratch=scratch, macs=matrices * rows * depth * channels),
    )
    temporaries = {
        "packed": matrices * packed_bytes, "bias": matrices * bias_bytes, "records": 8 * Panel.WORDS * matrices * count,
    }  # fmt: skip
    return Routine(steps, temporaries, template.nbytes)
