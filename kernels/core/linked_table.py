"""Tables of words that compiled code reads, some of them addresses: of arrays, and of compiled functions.

An address is valid only in its own process. A `LinkedTable` therefore keeps the arrays and functions behind its
addresses: the arrays stay alive, and a table read from disk is linked again to the arrays and functions stored with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from graphopt.kernels.core.compiler import MicroKernel
from graphopt.kernels.core.memory import Array, Words

Places = int | slice | Words  # in the flattened table
Link = tuple[Places, Array | MicroKernel, int | Words]  # places, target of the address, bytes from the target's start


class LinkedTable:
    """int64 `words` of any shape, C-contiguous; addresses are written by `link` alone."""

    __slots__ = ("links", "words")

    def __init__(self, words: Words) -> None:
        self.words = words
        self.links: list[Link] = []

    def link(self, places: Places, target: Array | MicroKernel, offset: int | Words = 0) -> None:
        """Write the address of `target`, plus `offset` in bytes, to the words at `places`."""
        self.links.append((places, target, offset))
        self._write(places, target, offset)

    def link_column(self, word: int, target: Array, offset: int | Words = 0) -> None:
        """Write the address of `target`, plus `offset`, to word `word` of every row."""
        self.link(slice(word, None, self.words.shape[1]), target, offset)

    def replace_column(self, word: int, values: int | Words) -> None:
        """Write plain numbers to word `word` of every row, over any link."""
        place = np.arange(self.words.size) % self.words.shape[1] == word
        self.links = [link for link in self.links if not np.all(place[link[0]])]
        self.words[:, word] = values

    def relink(self, replaced: Callable[[Array], Array]) -> None:
        """Point at `replaced(array)`, an array of equal content, instead of each array."""
        for index, (places, target, offset) in enumerate(self.links):
            if isinstance(target, np.ndarray) and (new := replaced(target)) is not target:
                self.links[index] = places, new, offset
                self._write(places, new, offset)

    @property
    def nbytes(self) -> int:
        """Bytes of the table and of the arrays that it points at."""
        return int(self.words.nbytes) + sum(array.nbytes for array in self.arrays)

    @property
    def arrays(self) -> Iterator[Array]:
        """The arrays it points at, each once."""
        return iter({id(target): target for _, target, _ in self.links if isinstance(target, np.ndarray)}.values())

    def _write(self, places: Places, target: Array | MicroKernel, offset: int | Words) -> None:
        base = target.address() if isinstance(target, MicroKernel) else int(target.ctypes.data)
        self.words.reshape(-1)[places] = base + offset

    def __getstate__(self) -> tuple[Words, list[Link]]:
        words = self.words.copy()
        for places, _, _ in self.links:
            words.reshape(-1)[places] = 0  # addresses of this process alone: files of equal tables are equal
        return words, self.links

    def __setstate__(self, state: tuple[Words, list[Link]]) -> None:
        words, self.links = state
        self.words = words.copy() if not words.flags.writeable else words
        for link in self.links:
            self._write(*link)
