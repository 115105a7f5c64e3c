"""The model behind a session, lifted, lowered and cut into segments when a session first asks for any of these."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import ModelError
from ...ir import Model
from ..lower.lowering import lower
from ..lower.operations import Coverage
from ..lower.ort_types import add_types_from_ort
from ..lower.traits import Operation
from .measured import candidates_of, left_to_onnxruntime, region_digest
from .partition import Segment, partition

if TYPE_CHECKING:
    from ...onnx_io.source import ModelSource

_PIECE = 1 << 20
"""Bytes of a file that are read at a time: enough that calls cost nothing beside hashing."""


def digest_of(source: ModelSource | Model) -> str | None:
    """SHA-256 of a model given as bytes or as a path; None for other sources and for files that cannot be read."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if not isinstance(source, (str, os.PathLike)):
        return None
    digest = hashlib.sha256()
    try:
        with open(source, "rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Parts:
    model: Model
    coverage: Coverage
    candidates: tuple[tuple[str, ...], ...]
    segments: list[Segment]


def _with_parts(coverage: Coverage, slow: Sequence[Segment], regions: Sequence[Segment]) -> set[Operation]:
    """The operations of slow regions, and those that do parts of their work, such as a fused operation's nodes alone:
    nobody measured these, and other regions do not use them."""
    left = {operation for region in slow for operation in region.operations}
    kept = {operation for region in regions for operation in region.operations} - left
    nodes = {node for operation in left for node in operation.nodes}
    parts = {operation for operation in coverage.providers.values() if nodes.issuperset(operation.nodes)}
    return left | (parts - kept)


class LoweredModel:
    """`segments` in the order they run, out of `model` by its `coverage`; computed once, when first asked for.

    `candidates`: the digests of each partition on the way, the first where nothing is known to be slower on kernels.
    What of a partition is in `slower` is left to onnxruntime, which gives the next. Raises ModelError where the source
    has another `digest` by then.
    """

    def __init__(
        self, source: ModelSource | Model, digest: str | None, *, kernels: bool, slower: frozenset[str]
    ) -> None:
        self._source, self._digest, self._kernels, self._slower = source, digest, kernels, slower
        self._parts: _Parts | None = None
        self.renew()

    def renew(self) -> None:
        """A forked child takes a lock of its own."""
        self._lock = threading.RLock()

    @property
    def model(self) -> Model:
        """The model in the IR."""
        return self._get().model

    @property
    def coverage(self) -> Coverage:
        """The operations that kernels can compute, and why there are none for other nodes."""
        return self._get().coverage

    @property
    def candidates(self) -> tuple[tuple[str, ...], ...]:
        """The digests of each partition on the way to the last, as `candidates_of` gives them."""
        return self._get().candidates

    @property
    def segments(self) -> list[Segment]:
        """The parts of the model in the order they run."""
        return self._get().segments

    def _get(self) -> _Parts:
        with self._lock:
            if self._parts is None:
                self._parts = self._lower()
            return self._parts

    def _lower(self) -> _Parts:
        model = self._lifted()
        if self._kernels:
            add_types_from_ort(model)
        coverage = lower(model.graph) if self._kernels else Coverage()
        rounds: list[tuple[str, ...]] = []
        banned: set[Operation] = set()
        while True:
            segments = partition(model.graph, coverage, banned)
            rounds.append(candidates_of(segments))
            slower = left_to_onnxruntime(rounds[-1], self._slower)
            if not slower:
                return _Parts(model, coverage, tuple(rounds), segments)
            regions = [segment for segment in segments if segment.is_region]
            slow = [region for region in regions if region_digest(region) in slower] or regions
            whole = slower == rounds[-1][-1:]
            banned |= set(coverage.providers.values()) if whole else _with_parts(coverage, slow, regions)
            for node in {node for region in slow for operation in region.operations for node in operation.nodes}:
                coverage.refusals.setdefault(node, "measured slower than onnxruntime here")

    def _lifted(self) -> Model:
        if isinstance(self._source, Model):
            return self._source
        from ...onnx_io import load

        if self._digest is not None and digest_of(self._source) != self._digest:
            raise ModelError(f"{str(self._source)!r} has changed since the session was made")
        return load(self._source)
