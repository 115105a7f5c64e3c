"""A file that computes the digest of its content while it is written."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

CHUNK = 1 << 24
"""Bytes written at a time, so that mapped weights do not stay in memory."""


class DigestingFile:
    """Counts and digests the written bytes, so that a file can be named by its content."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.position = file, 0
        self._hash = hashlib.blake2b(digest_size=8)

    def write(self, data: memoryview) -> None:
        """Write in pieces, so that a mapped file of any size passes through without staying in memory."""
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            self.file.write(piece)
            self._hash.update(piece)
        self.position += len(data)

    def pad_to(self, offset: int) -> None:
        """Fill with zeros up to `offset`."""
        self.write(memoryview(bytes(offset - self.position)))

    @property
    def digest(self) -> str:
        """Sixteen hex digits."""
        return self._hash.hexdigest()
