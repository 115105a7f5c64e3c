"""Rows and matrices that `kernels.products.tiles` describes."""

# mypy: ignore-errors

from __future__ import annotations

from numba.extending import register_jitable


@register_jitable
def first_row(cut, tile):
    """The first row of a tile of `RowTiles`."""
    return tile * cut.tall - max(0, tile - cut.tall_tiles)


@register_jitable
def place(base, strides, matrix, inner):
    """The address of a matrix of a batch whose inner axis has `inner`, from `base` at byte `Strides`."""
    outer = matrix // inner
    return base + outer * strides.outer + (matrix - outer * inner) * strides.inner
