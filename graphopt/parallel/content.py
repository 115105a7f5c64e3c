"""Content by its sha256, kept in each process within a bound: large arguments of tasks, which reach a worker once."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping

Content = Mapping[str, bytes]
"""Bytes by their digests."""

HELD = 1 << 31
"""Bytes that a process keeps: a bound (2 GiB), not tuned. What was used least recently goes first."""


def digest_of(data: bytes) -> str:
    """The address of content."""
    return hashlib.sha256(data).hexdigest()


class Store:
    """Bytes by their digests, at most `held` of them, the last ones used."""

    def __init__(self, held: int = HELD) -> None:
        self.held, self._kept, self._size = held, OrderedDict[str, bytes](), 0
        self._lock = threading.Lock()

    def add(self, content: Content) -> None:
        """Keep content; the last one is kept whatever its size."""
        with self._lock:
            for digest, data in content.items():
                if digest not in self._kept:
                    self._size += len(data)
                self._kept[digest] = data
                self._kept.move_to_end(digest)
                while self._size > self.held and len(self._kept) > 1:
                    self._size -= len(self._kept.popitem(last=False)[1])

    def get(self, digest: str) -> bytes | None:
        """The content of a digest, as far as it is here."""
        with self._lock:
            data = self._kept.get(digest)
            if data is not None:
                self._kept.move_to_end(digest)
            return data


STORE = Store()
"""The content that is in this process."""


def content(digest: str) -> bytes:
    """The content of a digest, to a task that was given it. KeyError where it is not here."""
    data = STORE.get(digest)
    if data is None:
        raise KeyError(digest)
    return data
