"""The cyclic garbage collector and graphs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """A graph is all references and little garbage: cyclic collection would walk it over and over as it grows."""
    with _collector(enabled=False):
        yield


@contextmanager
def collector_running() -> Iterator[None]:
    """For work inside a pause that drops whole models, which hold their arrays in cycles."""
    with _collector(enabled=True):
        yield


@contextmanager
def _collector(enabled: bool) -> Iterator[None]:
    was_enabled = gc.isenabled()
    _switch(enabled)
    try:
        yield
    finally:
        _switch(was_enabled)


def _switch(enabled: bool) -> None:
    if enabled:
        gc.enable()
    else:
        gc.disable()
