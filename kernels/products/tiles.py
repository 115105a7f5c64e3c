"""Records of the products' loops: rows cut into register tiles, strides of batched matrices."""

from __future__ import annotations

from typing import NamedTuple


class RowTiles(NamedTuple):
    """Rows cut into register tiles of `tall`, one row fewer from tile `tall_tiles` on; tiles into blocks of work."""

    tall: int
    tall_tiles: int
    tiles: int
    block: int
    blocks: int

    @property
    def uneven(self) -> bool:
        """Whether some tiles have one row fewer."""
        return self.tall_tiles < self.tiles

    def in_blocks(self, block: int) -> RowTiles:
        """These tiles, `block` of them (at least one, at most all) to a unit of work."""
        block = max(1, min(block, self.tiles))
        return self._replace(block=block, blocks=-(-self.tiles // block))


def cut_rows(rows: int, tallest: int) -> RowTiles:
    """The fewest tiles of at most `tallest` rows that cover `rows`, as even as possible, in one block."""
    tiles = -(-rows // tallest)
    tall = -(-rows // tiles)
    return RowTiles(tall, rows - tiles * (tall - 1), tiles, tiles, 1)


class Strides(NamedTuple):
    """Places of a batch of matrices in their buffer, in elements: steps of both batch axes, of rows, of columns."""

    outer: int
    inner: int
    row: int
    column: int

    def in_bytes(self, itemsize: int) -> Strides:
        """These strides in bytes, for elements of `itemsize`."""
        return Strides(*(itemsize * stride for stride in self))
