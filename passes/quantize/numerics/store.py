"""Storage of codes, and a cache of their file formats, each computed once for all built models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ....compress.layers.linear import Linear
from ....ir import Array
from ....machine.spool import Spool
from .grids import Codes


class CodeStore:
    """Keeps codes in memory, or on disk for models whose weights are large."""

    def __init__(self, spool: Spool | None = None) -> None:
        self.spool = spool
        self._forms: dict[tuple[int, str], tuple[Array, Array]] = {}

    def kept(self, codes: Codes, linear: Linear, by_row: bool) -> Codes:
        """The codes in their storage; on disk row by row, or in the weight's own layout."""
        if self.spool is None:
            return codes
        if by_row:
            rows = self.spool.keep(codes.rows)
        else:
            rows = linear.rows_of(self.spool.keep(linear.stored(codes.rows)))
        zero = None if codes.zero is None else self.spool.keep(codes.zero)
        return replace(codes, rows=rows, scale=self.spool.keep(codes.scale), zero=zero)

    def nibbles(self, codes: Codes, linear: Linear) -> Array | None:
        """4-bit codes as stored in a file, two a byte, the first in the lower half; None for codes in memory."""
        if self.spool is None:
            return None

        def packed() -> Array:
            flat = np.ascontiguousarray(linear.stored(codes.rows)).reshape(-1).view(np.uint8)
            flat = np.append(flat, np.uint8(0)) if flat.size % 2 else flat
            return np.asarray((flat[::2] & 15) | (flat[1::2] << np.uint8(4)))

        return self.form(codes, "nibbles", packed)

    def form(self, codes: Codes, name: str, make: Callable[[], Array]) -> Array:
        """The form of codes that `make` computes, cached by name."""
        key = id(codes.rows), name
        known = self._forms.get(key)
        if known is None:
            made = make()
            known = codes.rows, made if self.spool is None else self.spool.keep(made)
            self._forms[key] = known  # also holds the codes, so that their id is not reused
        return known[1]
