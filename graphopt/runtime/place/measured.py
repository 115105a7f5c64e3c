"""Measured seconds of regions on this machine: those that onnxruntime runs faster are left to it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from ...ir import Node, TensorType
from ...kernels import select_level
from ...kernels.core.object_cache import generation
from ...machine.measurements import Measurements, Pair
from ..lower.operations import Coverage
from ..lower.traits import Operation
from .partition import Segment


def region_times(threads: int) -> Measurements:
    """Seconds of regions and partitions with kernels and in onnxruntime, by `candidates_of`, for this level and number
    of threads."""
    return Measurements("regions", (select_level().name, str(threads), generation()))


def slower_regions(times: Mapping[str, Pair]) -> frozenset[str]:
    """The regions, and the partitions as a whole, that were measured to be slower with kernels."""
    return frozenset(digest for digest, (kernels, ort) in times.items() if kernels > ort)


def are_measured(candidates: tuple[str, ...], times: Mapping[str, Pair]) -> bool:
    """All regions of a partition were measured, so that nothing need be predicted of it."""
    return all(digest in times for digest in candidates[:-1])


def candidates_of(segments: Iterable[Segment]) -> tuple[str, ...]:
    """The digests of a partition's regions, and last that of the partition; none where no region is on kernels."""
    regions: list[str] = []
    whole = hashlib.sha256()
    for segment in segments:
        if segment.is_region:
            regions.append(region_digest(segment))
            whole.update(regions[-1].encode())
        else:
            whole.update(str([unit.op for unit in segment.units if isinstance(unit, Node)]).encode())
    return (*regions, f"partition:{whole.hexdigest()[:32]}") if regions else ()


def left_to_onnxruntime(candidates: tuple[str, ...], slower: Collection[str]) -> tuple[str, ...]:
    """The slower regions of a partition; if there is none, the partition where it is slower than onnxruntime alone."""
    regions = tuple(sorted({digest for digest in candidates[:-1] if digest in slower}))
    return regions or tuple(digest for digest in candidates[-1:] if digest in slower)


def with_parts(coverage: Coverage, slow: Sequence[Segment], regions: Sequence[Segment]) -> set[Operation]:
    """The operations of slow regions, and those that do parts of their work, such as a fused operation's nodes alone:
    nobody measured these, and other regions do not use them."""
    left = {operation for region in slow for operation in region.operations}
    kept = {operation for region in regions for operation in region.operations} - left
    nodes = {node for operation in left for node in operation.nodes}
    parts = {operation for operation in coverage.providers.values() if nodes.issuperset(operation.nodes)}
    return left | (parts - kept)


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
