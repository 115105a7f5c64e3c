"""Measured seconds of regions on this machine: those that onnxruntime runs faster are left to it."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

import numpy as np

from ...ir import TensorType
from ...kernels import select_level
from ...kernels.core.object_cache import generation
from ...machine.measurements import Measurements
from ..lower.traits import Operation
from .partition import Segment


def region_times(threads: int) -> Measurements:
    """Seconds of regions on kernels and in onnxruntime, by `region_digest`, for this level and number of threads."""
    return Measurements("regions", (select_level().name, str(threads), generation()))


def slower_regions(threads: int) -> frozenset[str]:
    """The regions that were measured to be slower on kernels."""
    return frozenset(digest for digest, (kernels, ort) in region_times(threads).load().items() if kernels > ort)


def region_digest(segment: Segment) -> str:
    """A name for the work of a region: operations, shapes, flow and declared input sizes, but no weight's value."""
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
    facts: list[Any] = []
    for field in fields(operation):
        value = getattr(operation, field.name)
        if field.name == "moves":
            facts.append([(type(move).__name__, _facts(move)) for move in value])
        elif isinstance(value, np.ndarray):
            facts.append((field.name, value.shape, value.dtype.str))
        elif isinstance(value, (int, str, tuple)) and field.name not in ("inputs", "nodes", "tables"):
            facts.append((field.name, value))
    return facts
