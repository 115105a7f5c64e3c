"""The model behind a session, lifted, lowered and cut into segments when somebody asks for it."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Any

from ...errors import ModelError
from ...ir import Model
from ..lower.lowering import lower
from ..lower.operations import Coverage
from ..lower.ort_types import add_types_from_ort
from .measured import region_digest
from .partition import Segment, partition

_PIECE = 1 << 20  # bytes of a file that are read at a time
_Parts = tuple[Model, Coverage, list[Segment]]


def digest_of(source: Any) -> str | None:
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


class LoweredModel:
    """`segments` in the order they run, out of `model` by `coverage`; made once, and only when asked for.

    Regions whose digest is in `slower` are left to onnxruntime. With
    a `digest` the source must still be what it was.
    """

    def __init__(self, source: Any, digest: str | None, *, kernels: bool, slower: frozenset[str]) -> None:
        self._source, self._digest, self._kernels, self._slower = source, digest, kernels, slower
        self._made: _Parts | None = None
        self.renew()

    def renew(self) -> None:
        """A forked child takes a lock of its own."""
        self._lock = threading.RLock()

    @property
    def model(self) -> Model:
        """The model in the IR."""
        return self._get()[0]

    @property
    def coverage(self) -> Coverage:
        """What kernels can compute, and why not the rest."""
        return self._get()[1]

    @property
    def segments(self) -> list[Segment]:
        """What runs where, in order."""
        return self._get()[2]

    def _get(self) -> _Parts:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> _Parts:
        model = self._lifted()
        if self._kernels:
            add_types_from_ort(model)
        coverage = lower(model.graph) if self._kernels else Coverage()
        segments = partition(model.graph, coverage)
        slower = [s for s in segments if s.is_region and region_digest(s) in self._slower]
        if not slower:
            return model, coverage, segments
        banned = {operation for segment in slower for operation in segment.operations}
        for operation in banned:
            for node in operation.nodes:
                coverage.refusals.setdefault(node, "measured slower than onnxruntime here")
        return model, coverage, partition(model.graph, coverage, banned)

    def _lifted(self) -> Model:
        if isinstance(self._source, Model):
            return self._source
        from ...onnx_io import load

        if self._digest is not None and digest_of(self._source) != self._digest:
            raise ModelError(f"{os.fspath(self._source)!r} has changed since the session was made")
        return load(self._source)
