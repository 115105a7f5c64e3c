"""Tables of words that compiled code reads, some of them addresses: of arrays, and of compiled functions.

An address is true only in the process that made it. A `LinkedTable` therefore remembers what its addresses stand for:
it keeps the arrays alive, and a copy read from disk is linked again to the arrays and functions found there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.kernels.core.compiler import MicroKernel

Array = npt.NDArray[Any]
Words = npt.NDArray[np.int64]
Places = int | Words  # in the flattened table
Link = tuple[Places, Array | MicroKernel, int | Words]  # places, what stands there, bytes from its start


class LinkedTable:
    """int64 `words` of any shape, C-contiguous; addresses are written by `link` alone."""

    __slots__ = ("links", "words")

    def __init__(self, words: Words) -> None:
        self.words = words
        self.links: list[Link] = []

    def link(self, places: Places, target: Array | MicroKernel, offset: int | Words = 0) -> None:
        """Let the words at `places` be the address of `target`, each plus its `offset` in bytes."""
        self.links.append((places, target, offset))
        self._write(places, target, offset)

    def link_column(self, word: int, target: Array, offset: int | Words = 0) -> None:
        """Let word `word` of every row point into `target`."""
        rows, width = self.words.shape
        self.link(np.arange(rows) * width + word, target, offset)

    def replace_column(self, word: int, values: int | Words) -> None:
        """Let word `word` of every row be a plain number again."""
        width = self.words.shape[1]
        self.links = [link for link in self.links if np.any(np.asarray(link[0]) % width != word)]
        self.words[:, word] = values

    @property
    def nbytes(self) -> int:
        """Bytes of the table and of what it points at."""
        return int(self.words.nbytes) + sum(array.nbytes for array in self.arrays)

    @property
    def arrays(self) -> Iterator[Array]:
        """The arrays it points at, each once."""
        found = {id(target): target for _, target, _ in self.links if isinstance(target, np.ndarray)}
        return iter(found.values())

    def _write(self, places: Places, target: Array | MicroKernel, offset: int | Words) -> None:
        base = target.address() if isinstance(target, MicroKernel) else int(target.ctypes.data)
        self.words.reshape(-1)[places] = base + offset

    def __getstate__(self) -> tuple[Words, list[Link]]:
        return self.words, self.links

    def __setstate__(self, state: tuple[Words, list[Link]]) -> None:
        words, self.links = state
        self.words = words.copy() if not words.flags.writeable else words
        for link in self.links:
            self._write(*link)
