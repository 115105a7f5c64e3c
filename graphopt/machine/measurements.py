"""On-disk tables of seconds measured on this machine, one for each kind of measurement."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from .cpu import host_cpu
from .files import cache_folder, replace_file

Pair = tuple[float, float]
"""Seconds of two candidates for the same work; the table's kind defines the two."""

_adding = threading.Lock()

_Stamp = tuple[int, int, int]
_read: dict[Path, tuple[_Stamp, dict[str, Pair]]] = {}
"""The tables read by this process, with the inode number, size and time of change of their files."""


@cache
def _onnxruntime() -> str:
    """onnxruntime's version, cached, as reading it takes as long as opening a small session."""
    return version("onnxruntime")


@dataclass(frozen=True, slots=True)
class Measurements:
    """The table `kind` for this CPU and this version of onnxruntime.

    facts: everything else on which all times of the table depend. A key identifies the measured work, and only that.
    """

    kind: str
    facts: tuple[str, ...] = ()

    @property
    def _path(self) -> Path:
        name, features = host_cpu()
        facts = "\0".join((name, *sorted(features), _onnxruntime(), *self.facts))
        return cache_folder() / "measurements" / self.kind / f"{hashlib.sha256(facts.encode()).hexdigest()[:24]}.json"

    def load(self) -> dict[str, Pair]:
        """All pairs by key; empty where the file is missing or corrupt."""
        path = self._path
        try:
            found = os.stat(path)
            stamp = found.st_ino, found.st_size, found.st_mtime_ns
            known = _read.get(path)
            if known is None or known[0] != stamp:
                stored = json.loads(path.read_text("utf-8"))
                pairs = {str(key): (float(pair[0]), float(pair[1])) for key, pair in stored.items()}
                known = _read[path] = stamp, pairs
            return dict(known[1])
        except (OSError, ValueError, TypeError, AttributeError, IndexError):
            return {}

    def add(self, measured: Mapping[str, Pair]) -> bool:
        """Store pairs, replacing older ones with the same keys; False where the cache cannot be written.

        Of two processes that add at once, the last wins; the other's pairs will be measured again.
        """
        path = self._path
        with _adding:
            data = json.dumps({**self.load(), **measured}).encode()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(str(path), lambda file: file.write(data), durable=False)
            except OSError:
                return False
        return True
