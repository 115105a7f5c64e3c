"""A budget of time and memory that ends an onnxruntime run at the operator at which it is spent."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_EVERY = 0.02
"""Seconds between looks at the clock and the memory: in this time a core touches some 100 MB of new pages."""


class Budget:
    """Seconds and bytes beyond what the process takes now; `reason` says what was spent, "" while all is well."""

    def __init__(self, seconds: float, memory: int) -> None:
        self.seconds, self.memory, self.reason = seconds, memory, ""
        self._until, self._most = time.monotonic() + seconds, _resident() + memory

    @property
    def is_spent(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() > self._until

    @contextmanager
    def watching(self, options: Any) -> Iterator[None]:
        """Within it a run with these RunOptions is ended once time or memory is spent."""
        self.reason, done = "", threading.Event()
        watcher = threading.Thread(target=self._watch, args=(options, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _watch(self, options: Any, done: threading.Event) -> None:
        while not done.wait(_EVERY):
            if self.is_spent:
                self.reason = f"a run took more than what was left of {self.seconds:g} s"
            elif _resident() > self._most:
                self.reason = f"a run took more than {self.memory >> 20} MB"
            if self.reason:
                options.terminate = True
                return


def _resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
