"""A bounded store of content by sha256 in each process: large arguments of tasks, sent to a worker once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping

Content = Mapping[str, bytes]
"""Bytes by their digests."""

HELD = 1 << 31
"""The most bytes that a process stores: a bound (2 GiB), not tuned. Least recently used content is dropped first."""


def digest_of(data: bytes) -> str:
    """The address of content: its sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


class Store:
    """The most recently used content by digest, at most `held` bytes."""

    def __init__(self, held: int = HELD) -> None:
        self.held, self._kept, self._size = held, OrderedDict[str, bytes](), 0
        self._lock = threading.Lock()

    def add(self, content: Content) -> None:
        """Store content; the last item is kept whatever its size."""
        with self._lock:
            for digest, data in content.items():
                if digest not in self._kept:
                    self._size += len(data)
                self._kept[digest] = data
                self._kept.move_to_end(digest)
                while self._size > self.held and len(self._kept) > 1:
                    self._size -= len(self._kept.popitem(last=False)[1])

    def get(self, digest: str) -> bytes | None:
        """The content of a digest; None if it is not stored."""
        with self._lock:
            data = self._kept.get(digest)
            if data is not None:
                self._kept.move_to_end(digest)
            return data


STORE = Store()
"""The content stored in this process."""


def content(digest: str) -> bytes:
    """The content of a digest, for a task that was sent it. KeyError if it is not stored."""
    data = STORE.get(digest)
    if data is None:
        raise KeyError(digest)
    return data
