"""A file wrapper that computes the digest of the written content."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

CHUNK = 1 << 24
"""Bytes written at a time, so that mapped weights do not stay in memory."""


class DigestingFile:
    """Counts the written bytes and optionally digests them, so that a file can be named by its content."""

    def __init__(self, file: BinaryIO, digests: bool = True) -> None:
        self.file, self.position, self.digests = file, 0, digests
        self._hash = hashlib.blake2b(digest_size=8)

    def write(self, data: memoryview) -> None:
        """Write in pieces, so that a mapped file of any size passes through without staying in memory."""
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            self.file.write(piece)
            if self.digests:
                self._hash.update(piece)
        self.position += len(data)

    def pad_to(self, offset: int) -> None:
        """Fill with zeros up to `offset`."""
        self.write(memoryview(bytes(offset - self.position)))

    @property
    def digest(self) -> str:
        """Sixteen hex digits."""
        return self._hash.hexdigest()
