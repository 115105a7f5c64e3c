"""The model behind a session: lifted, lowered and partitioned lazily, when a session first reads the result."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ...errors import ModelError
from ...ir import Model, Value
from ...machine.measurements import Pair
from ..lower.decoders.spelling import spelled_for_kernels
from ..lower.lowering import has_codes, lower, uncovered
from ..lower.operations import Coverage
from ..lower.ort_types import add_types_from_ort
from ..lower.traits import Operation, Shape
from .extract import nodes_of
from .measured import (
    PARTITIONS,
    Choice,
    candidates_of,
    chosen,
    left_to_onnxruntime,
    region_digest,
    slower_regions,
    with_parts,
)
from .partition import Partitions, Segment, whole
from .placement import Placement
from .stored import may_be_computed

if TYPE_CHECKING:
    from ...onnx_io.emit import Skeleton
    from ...onnx_io.source import ModelSource

Kernels = bool | Literal["predicted", "measured"] | None
"""The caller's choice of what runs on kernels; see `LoweredModel`."""

_SLOWER = "measured slower than onnxruntime here"

_PIECE = 1 << 18
"""Bytes of a file that are read at a time: enough that calls cost nothing beside hashing, few enough for a cache."""


def digest_of(source: ModelSource | Model) -> str | None:
    """SHA-256 of a model given as bytes or as a path; None for other sources and for files that cannot be read."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if not isinstance(source, (str, os.PathLike)):
        return None
    digest, piece = hashlib.sha256(), memoryview(bytearray(_PIECE))
    try:
        with open(source, "rb", buffering=0) as file:
            while read := file.readinto(piece):
                digest.update(piece[:read])
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


def stamp_of(source: ModelSource | Model) -> tuple[int, ...] | None:
    """A file's inode number, size and time of change, which change with its content; None for other sources."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    try:
        found = os.stat(source)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True)
class _Parts:
    model: Model
    coverage: Coverage
    greedy: tuple[str, ...]
    candidates: tuple[tuple[str, ...], ...]
    segments: list[Segment]
    decisions: Mapping[Operation, str] = field(default_factory=dict)
    verdict: str = ""
    shapes: Mapping[Value, Shape] | None = None  # assumed
    digests: Mapping[Segment, str] = field(default_factory=dict)  # of the greedy partition's regions


class LoweredModel:
    """The model, its coverage by kernels, and its `segments` in the order they run; computed once, at first access.

    `kernels` True runs all supported operations on kernels, False none, "predicted" and "measured" those that pay by
    prediction or by the `times` of regions, None the partition that the `times` of whole partitions choose.
    `candidates`: the digests of each partition on the way to the measured one; leaving its slower regions to
    onnxruntime gives the next. Raises ModelError where the source has another `digest` by then.
    """

    def __init__(
        self, source: ModelSource | Model, digest: str | None, *, kernels: Kernels, times: Mapping[str, Pair],
        stamp: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        """`stamp`: the file's, taken before its digest; an unchanged stamp means an unchanged digest."""
        self._source, self._digest, self._kernels, self._times = source, digest, kernels, times
        self._stamp = stamp
        self._parts: _Parts | None = None
        self._original: Model | None = None
        self.renew()

    def renew(self) -> None:
        """Replace the lock, in a forked child."""
        self._lock = threading.RLock()

    @property
    def model(self) -> Model:
        """The model in the IR, rewritten for kernels where that pays: the one that `segments` partition."""
        return self._get().model

    @property
    def original(self) -> Model:
        """The model in the IR as lifted from the source."""
        with self._lock:
            if self._original is None:
                self._original = self._lifted()
            return self._original

    @property
    def coverage(self) -> Coverage:
        """The operations that kernels can compute, and the refusals of other nodes."""
        return self._get().coverage

    @property
    def greedy(self) -> tuple[str, ...]:
        """The digests of the greedy partition, which runs every supported operation on kernels."""
        return self._get().greedy

    @property
    def candidates(self) -> tuple[tuple[str, ...], ...]:
        """The digests of each partition on the way to the last, as `candidates_of` gives them."""
        return self._get().candidates

    @property
    def segments(self) -> list[Segment]:
        """The parts of the model in the order they run."""
        return self._get().segments

    def decision(self, region: Segment) -> str:
        """The times that put a region on kernels; "" where `kernels` is a bool or no time is known."""
        if isinstance(self._kernels, bool):
            return ""
        parts = self._get()
        pair = self._times.get(parts.digests.get(region) or region_digest(region)) if self._times else None
        told = parts.decisions.get(region.operations[0], "")
        seconds = (
            "" if pair is None else f"measured {pair[0] * 1e6:.0f} µs on kernels, {pair[1] * 1e6:.0f} µs in onnxruntime"
        )
        return "; ".join(filter(None, (told, seconds)))

    def computes_weights(self, segment: Segment) -> bool:
        """Whether onnxruntime dequantizes the stored weights of a segment once, at loading."""
        if not self._may_be_computed:
            return False
        from .cost import computes_weights  # here, as it needs the whole compiler

        return computes_weights(nodes_of(segment), lambda: self._shapes)

    @cached_property
    def _may_be_computed(self) -> bool:
        return may_be_computed(self.model.graph)

    @cached_property
    def _shapes(self) -> Mapping[Value, Shape]:
        from .assumed import assumed_shapes  # as above

        known = self._get().shapes
        return assumed_shapes(self.model) if known is None else known

    @property
    def verdict(self) -> str:
        """The reason for the partition as a whole; "" for none."""
        return self._get().verdict

    def _get(self) -> _Parts:
        with self._lock:
            if self._parts is None:
                self._parts = self._lower()
            return self._parts

    def _lower(self) -> _Parts:
        model = self.original
        if self._kernels is False or not has_codes(model.graph):
            coverage = Coverage() if self._kernels is False else uncovered(model.graph)
            return _Parts(model, coverage, (), ((),), whole(model.graph))
        skeleton: Skeleton | None = None
        if not isinstance(self._source, Model):
            from ...onnx_io import infer_types
            from ...onnx_io.emit import skeleton_as_lifted

            skeleton = skeleton_as_lifted(model)
            infer_types(model, skeleton)
            if any(node.subgraphs for node in model.graph):
                skeleton = None  # their inputs have other types now
        add_types_from_ort(model)
        spelled = spelled_for_kernels(model)
        if spelled is not None:
            parts = self._cut(spelled.model)
            if not any(unit in spelled.only for segment in parts.segments for unit in segment.units):
                return parts
        return self._cut(model, skeleton)

    def _cut(self, model: Model, skeleton: Skeleton | None = None) -> _Parts:
        """The partition that `kernels` asks for, of the model or of its form rewritten for kernels."""
        coverage = lower(model.graph)
        partitions = Partitions(model.graph, coverage)
        segments = partitions.without(())
        greedy = candidates_of(segments)
        digests = dict(zip((segment for segment in segments if segment.is_region), greedy))
        if self._kernels is True:
            return _Parts(model, coverage, greedy, (greedy,), segments)
        choice: Choice = self._kernels if isinstance(self._kernels, str) else chosen(greedy, self._times)
        rounds: tuple[tuple[str, ...], ...] = (greedy,)
        shapes: Mapping[Value, Shape] | None = None
        placed = Placement(set(), verdict="" if not greedy else f"measured: {PARTITIONS[choice]}")
        if greedy and choice == "predicted":
            from .assumed import assumed_shapes  # here, as these need the whole compiler
            from .predicted import left_by_prediction

            shapes = assumed_shapes(model, skeleton)
            placed = left_by_prediction(model, partitions, shapes)
            segments = partitions.without(placed.left)
        elif choice == "whole":
            placed.left.update(coverage.providers.values())
            placed.reasons.update((node, _SLOWER) for o in placed.left for node in o.nodes)
            segments = partitions.without(placed.left)
        elif choice == "measured":
            segments, rounds = self._without_slower(partitions, placed)
        coverage.refusals.update({n: why for n, why in placed.reasons.items() if n not in coverage.refusals})
        told = placed.decisions, placed.verdict
        return _Parts(model, coverage, greedy, rounds, segments, *told, shapes, digests)

    def _without_slower(
        self, partitions: Partitions, placed: Placement
    ) -> tuple[list[Segment], tuple[tuple[str, ...], ...]]:
        """The partition without regions measured as slower on kernels, and the digests of each on the way."""
        slower = slower_regions(self._times)
        rounds: list[tuple[str, ...]] = []
        while True:
            segments = partitions.without(placed.left)
            rounds.append(candidates_of(segments))
            left = left_to_onnxruntime(rounds[-1], slower)
            if not left:
                return segments, tuple(rounds)
            regions = [segment for segment in segments if segment.is_region]
            slow = [region for region in regions if region_digest(region) in left]
            slow_operations = [operation for region in slow for operation in region.operations]
            placed.left.update(with_parts(partitions.coverage, slow_operations, regions))
            placed.reasons.update((node, _SLOWER) for operation in slow_operations for node in operation.nodes)

    def _lifted(self) -> Model:
        if isinstance(self._source, Model):
            return self._source
        from ...onnx_io import load

        unchanged = self._stamp is not None and stamp_of(self._source) == self._stamp
        if self._digest is not None and not unchanged and digest_of(self._source) != self._digest:
            raise ModelError(f"{str(self._source)!r} has changed since the session was made")
        return load(self._source, infer=False)
