"""The choice of regions by seconds measured on this machine: onnxruntime runs the regions it is faster at."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, Literal

import numpy as np

from ...ir import Node, TensorType
from ...kernels import select_level
from ...kernels.core.object_cache import generation
from ...machine.measurements import Measurements, Pair
from ..lower.operations import Coverage
from ..lower.traits import Operation
from .partition import Segment

Choice = Literal["predicted", "whole", "all", "measured"]
"""The partition: as predicted, whole in onnxruntime, all regions on kernels, or by the measured times of regions."""

PARTITIONS: dict[Choice, str] = {
    "predicted": "as predicted", "whole": "whole in onnxruntime", "all": "all regions on kernels",
    "measured": "the faster regions on kernels",
}  # fmt: skip
"""Descriptions of the partitions that sessions may run, in the order in which they are raced against the first."""

TIE = 0.02
"""The share by which another partition must be faster than the predicted one: twice the error at which a ratio counts
as clear in a warm-up, so that the choice never loses time."""

AS_PREDICTED: Pair = (1.0, 1.0)
"""Stands for the times of a partition that is not chosen."""

_COMPARED = "computed weights"
"""How onnxruntime handles stored weights in its times; part of the key, so that times from before are measured anew."""


def region_times(threads: int) -> Measurements:
    """Seconds of regions and partitions with kernels and in onnxruntime, by `candidates_of`, for this level and number
    of threads."""
    return Measurements("regions", (select_level().name, str(threads), generation(), _COMPARED))


def slower_regions(times: Mapping[str, Pair]) -> frozenset[str]:
    """The regions that were measured to be slower on kernels."""
    return frozenset(digest for digest, (kernels, ort) in times.items() if kernels > ort)


def partition_key(greedy: tuple[str, ...], choice: Choice) -> str:
    """The key of the times of a partition and of the one predicted, in a model of which `greedy` are the digests."""
    return f"{greedy[-1]}:{choice}/predicted" if greedy else ""


def is_faster(pair: Pair) -> bool:
    """Whether a partition is faster than the predicted one by TIE; `pair`: the times of both."""
    return 0 < pair[0] * (1 + TIE) < pair[1]


def chosen(greedy: tuple[str, ...], times: Mapping[str, Pair]) -> Choice:
    """The partition that sessions of a model run: the predicted one, or the fastest of those measured to be faster."""
    pairs = {choice: times.get(partition_key(greedy, choice), AS_PREDICTED) for choice in PARTITIONS}
    faster: dict[Choice, float] = {choice: pair[0] / pair[1] for choice, pair in pairs.items() if is_faster(pair)}
    return min(faster, key=faster.__getitem__, default="predicted")


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
    """The slower regions of a partition."""
    return tuple(sorted({digest for digest in candidates[:-1] if digest in slower}))


def with_parts(coverage: Coverage, left: Collection[Operation], segments: Sequence[Segment]) -> set[Operation]:
    """The operations `left` to onnxruntime, and other operations on their nodes, such as a fused operation's parts,
    that no segment keeps: they were neither measured nor predicted."""
    kept = {operation for segment in segments for operation in segment.operations}.difference(left)
    nodes = {node for operation in left for node in operation.nodes}
    parts = {operation for operation in coverage.providers.values() if nodes.issuperset(operation.nodes)}
    return parts.difference(kept).union(left)


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
    for name in _fields(type(operation)):  # type: ignore[arg-type]  # a class has a hash, whatever its instances have
        value = getattr(operation, name)
        if name == "moves":
            facts.append([(type(move).__name__, _facts(move)) for move in value])
        elif isinstance(value, np.ndarray):
            facts.append((name, value.shape, value.dtype.str))
        elif isinstance(value, (int, str, tuple)) and name != "tables":
            facts.append((name, value))
    return facts


@cache
def _fields(kind: type[Any]) -> tuple[str, ...]:
    """The fields of a class of operations that may be facts."""
    return tuple(field.name for field in fields(kind) if field.name not in ("inputs", "nodes"))
