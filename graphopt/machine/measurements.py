"""Seconds measured on this machine, on disk, in one table for each kind of measurement. Nothing here measures."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from .cpu import host_cpu
from .files import cache_folder, replace_file

Pair = tuple[float, float]
"""Seconds of two candidates for the same work; the kind of the table says which two."""

_adding = threading.Lock()


@cache
def _onnxruntime() -> str:
    """Its version; to read it takes as long as to open a small session."""
    return version("onnxruntime")


@dataclass(frozen=True, slots=True)
class Measurements:
    """The table `kind` for this CPU and this version of onnxruntime.

    facts: all else that every number of the table depends on. A key identifies the measured work, and nothing that the
    time does not depend on.
    """

    kind: str
    facts: tuple[str, ...] = ()

    @property
    def _path(self) -> Path:
        name, features = host_cpu()
        facts = "\0".join((name, *sorted(features), _onnxruntime(), *self.facts))
        return cache_folder() / "measurements" / self.kind / f"{hashlib.sha256(facts.encode()).hexdigest()[:24]}.json"

    def load(self) -> dict[str, Pair]:
        """All pairs by key; none where the file is missing or corrupt."""
        try:
            stored = json.loads(self._path.read_text("utf-8"))
            return {str(key): (float(pair[0]), float(pair[1])) for key, pair in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError, IndexError):
            return {}

    def add(self, measured: Mapping[str, Pair]) -> bool:
        """Store pairs, in place of older ones of the same keys; False where the cache cannot be written.

        Of two processes that add at once, the last wins: the other's pairs will be measured again.
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
