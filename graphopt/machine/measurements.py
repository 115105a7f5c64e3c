"""What was measured on this machine: seconds, one table a kind of fact, kept on disk. Never measured unasked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from .cpu import host_cpu
from .files import cache_folder, replace_file

Pair = tuple[float, float]
"""Seconds of two candidates for the same work, by key; which two, the kind of the table says."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """The table `kind` of this CPU and version of onnxruntime; `facts` is what else its numbers depend on.

    Each key says of what the two numbers are, without anything that they do not depend on.
    """

    kind: str
    facts: tuple[str, ...] = ()

    @property
    def _path(self) -> Path:
        name, features = host_cpu()
        facts = "\0".join((name, *sorted(features), version("onnxruntime"), *self.facts))
        return cache_folder() / "measurements" / self.kind / f"{hashlib.sha256(facts.encode()).hexdigest()[:24]}.json"

    def load(self) -> dict[str, Pair]:
        """All that is known; nothing where the cache cannot be read."""
        try:
            stored = json.loads(self._path.read_text("utf-8"))
            return {str(key): (float(pair[0]), float(pair[1])) for key, pair in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError, IndexError):
            return {}

    def add(self, measured: Mapping[str, Pair]) -> bool:
        """Keep numbers beside those that are known; False where the cache cannot be written."""
        path, text = self._path, json.dumps({**self.load(), **measured})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(str(path), lambda file: file.write(text.encode()), durable=False)
        except OSError:
            return False
        return True
