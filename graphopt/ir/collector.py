"""Pauses of Python's cyclic garbage collector while graphs are built.

A graph has many references and little garbage: cyclic collection would walk the graph again and again as it grows.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_pauses = _resumptions = 0  # in force, over all threads
_was_enabled = False  # before the first pause or resumption


@contextmanager
def collector_paused() -> Iterator[None]:
    """Suspend cyclic collection. Pauses nest; with pauses in several threads, collection resumes when the last ends."""
    _count(1, 0)
    try:
        yield
    finally:
        _count(-1, 0)


@contextmanager
def collector_running() -> Iterator[None]:
    """Resume collection within a pause, for work that drops whole models, whose cycles hold their arrays."""
    _count(0, 1)
    try:
        yield
    finally:
        _count(0, -1)


def _count(pauses: int, resumptions: int) -> None:
    """Count pauses and resumptions; collection is enabled if it was before, and pauses do not exceed resumptions."""
    global _pauses, _resumptions, _was_enabled
    with _lock:
        if _pauses == _resumptions == 0:
            _was_enabled = gc.isenabled()
        _pauses += pauses
        _resumptions += resumptions
        if _was_enabled and _pauses <= _resumptions:
            gc.enable()
        else:
            gc.disable()
