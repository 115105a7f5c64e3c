"""What was measured on this machine: regions that onnxruntime runs faster are left to it. Never measured unasked."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ...ir import TensorType
from ...kernels import select_level
from ...kernels.levels import host_cpu
from ...kernels.objects import cache_folder, generation
from ..lower.operations import Operation
from .partition import Segment


@cache
def _machine(threads: int, level: str) -> str:
    facts = (host_cpu()[0], *sorted(host_cpu()[1]), level, str(threads), generation(), version("onnxruntime"))
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:24]


def _path(threads: int) -> Path:
    return cache_folder() / "decisions" / f"{_machine(threads, select_level().name)}.json"


@dataclass(slots=True)
class Decisions:
    """Measured seconds by region: kernels' and onnxruntime's."""

    threads: int
    measured: dict[str, tuple[float, float]]

    @classmethod
    def load(cls, threads: int) -> Decisions:
        """What is known for this machine, level, and number of threads; nothing where the cache cannot be read."""
        try:
            stored = json.loads(_path(threads).read_text("utf-8"))
            measured = {str(k): (float(v[0]), float(v[1])) for k, v in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError, IndexError):
            measured = {}
        return cls(threads, measured)

    @property
    def slower(self) -> tuple[str, ...]:
        """The regions that are left to onnxruntime."""
        return tuple(sorted(digest for digest in self.measured if self.is_slower(digest)))

    def is_slower(self, digest: str) -> bool:
        """Kernels were measured, and were slower."""
        kernels, stock = self.measured.get(digest, (0.0, 0.0))
        return kernels > stock

    def store(self) -> bool:
        """Write beside, then rename; False when the cache cannot be written."""
        path = _path(self.threads)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(self.measured, file)
            os.replace(temporary, path)
        except OSError:
            return False
        return True


def region_digest(segment: Segment) -> str:
    """What a region does, without its weights' values: kinds, shapes, how values flow, declared sizes of its inputs."""
    names = {value: f"i{index}" for index, value in enumerate(segment.inputs)}
    digest = hashlib.sha256()
    for value in segment.inputs:
        digest.update(str(value.type.shape if isinstance(value.type, TensorType) else None).encode())
    for index, operation in enumerate(segment.operations):
        reads = [names.get(value, "constant") for value in operation.inputs]
        digest.update(f"{type(operation).__name__}{reads}{_facts(operation)}".encode())
        names[operation.output] = f"v{index}"
    return digest.hexdigest()[:32]


def _facts(operation: Operation) -> list[Any]:
    found: list[Any] = []
    for field in fields(operation):
        value = getattr(operation, field.name)
        if field.name == "moves":
            found.append([(type(move).__name__, _facts(move)) for move in value])
        elif isinstance(value, np.ndarray):
            found.append((field.name, value.shape, value.dtype.str))
        elif isinstance(value, (int, str, tuple)) and field.name not in ("inputs", "nodes", "tables"):
            found.append((field.name, value))
    return found
