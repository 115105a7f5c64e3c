"""Observe the values of a model over all samples: streaming, in parallel if wanted, resumable from a cache file."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import Executor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..equivalence.feeds import Feeds
from ..errors import InputError, OutputError
from ..ir import Model, Value
from ..machine.files import replace_file
from ..onnx_io import to_proto
from .activations import Taps
from .chunks import observe_chunks
from .observers import Extent
from .ranges import observer_for

Observed = dict[Value, Extent]


def observe(
    model: Model, values: Sequence[Value], feeds: Iterable[Feeds], method: str = "minmax", *,
    peaks: Set[Value] = frozenset(), executor: Executor | None = None, cache: str | os.PathLike[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Observed:  # fmt: skip
    """The observer of each value of the model's root graph, over all samples; unreadable values are absent.

    peaks: values [N, C, space…] that are never negative, of which min-max reads each channel's largest element alone.
    executor: any of `concurrent.futures`, runs chunks of samples (threads share a session, processes open their own);
    without one, a few samples at a time where cores abound. cache: a file with the state of all observers, to resume
    after an interruption; it is ignored where the model, the values, the method or the samples differ. progress: called
    with the number of samples seen.
    InputError for samples that differ from a cache's but can be read only once; OutputError for a cache that cannot be
    written.
    """
    taps = Taps(model, values, peaks=peaks if method == "minmax" else frozenset())
    totals = [observer_for(method) for _ in taps.readable]
    if taps.peaks is not None:
        totals.append(Extent(axis=1))
    store = None if cache is None else _ObserverCache(Path(cache), model, taps.results, method)
    count = 0
    if store is not None:
        count, totals, feeds = store.resume(totals, feeds)
    for chunk, seen in observe_chunks(taps, method, feeds, executor):
        for total, part in zip(totals, seen):
            total.merge(part)
        count += chunk
        if store is not None:
            store.save(count, totals)
        if progress is not None:
            progress(count)
    observed = dict(zip(taps.readable, totals))
    if taps.peaks is not None:
        observed.update(taps.peaks.extents(totals[-1]))
    return {value: observed[value] for value in values if value in observed}


class _ObserverCache:
    """A file with observers and the number of samples they saw."""

    def __init__(self, path: Path, model: Model, names: Iterable[str], method: str) -> None:
        self.path = path
        digest = hashlib.sha256(to_proto(model).SerializeToString(deterministic=True))
        digest.update("\0".join((method, *Extent.__slots__, *names)).encode())
        self.digest = digest.hexdigest()
        self.samples = DigestedFeeds(())

    def resume(self, empty: list[Any], feeds: Iterable[Feeds]) -> tuple[int, list[Any], Iterable[Feeds]]:
        """The number of samples seen, their observers, the samples left; 0 and `empty` where the file does not
        match."""
        count, totals, seen = self._load(empty)
        self.samples = DigestedFeeds(feeds)
        for _ in islice(self.samples, count):
            pass
        if self.samples.digests[-1] == seen:
            return count, totals, self.samples
        if iter(feeds) is feeds:
            raise InputError(f"calibration: the cache {self.path} saw other samples, and these can be read only once")
        self.samples = DigestedFeeds(feeds)
        return 0, empty, self.samples

    def _load(self, empty: list[Any]) -> tuple[int, list[Any], bytes]:
        try:
            with self.path.open("rb") as file:
                digest, count, totals, seen = _ObserverUnpickler(file).load()
        except (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError):
            return 0, empty, b""
        fits = digest == self.digest and len(totals) == len(empty)
        return (count, totals, seen) if fits else (0, empty, b"")

    def save(self, count: int, totals: list[Any]) -> None:
        state = (self.digest, count, totals, self.samples.digests[count])
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(
                os.fspath(self.path), lambda file: pickle.dump(state, file, pickle.HIGHEST_PROTOCOL), durable=False
            )
        except OSError as error:
            raise OutputError(f"calibration: the cache {self.path} cannot be written: {error.strerror}") from error


class DigestedFeeds(Iterator[Feeds]):
    """Passes samples through and digests all samples so far: a cache is valid for the same data alone."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self.feeds, self.digests = iter(feeds), [b""]

    def __next__(self) -> Feeds:
        feed = next(self.feeds)
        digest = hashlib.sha256(self.digests[-1])
        for name, value in sorted(feed.items()):
            is_plain = isinstance(value, np.ndarray) and value.dtype.kind != "O"
            digest.update(f"{name} {getattr(value, 'dtype', '')} {np.shape(value) if is_plain else value}".encode())
            digest.update(np.ascontiguousarray(value).tobytes() if is_plain else b"")
        self.digests.append(digest.digest())
        return feed


class _ObserverUnpickler(pickle.Unpickler):
    """Loads observers and arrays, and no other class: a cache file may come from anywhere."""

    _KNOWN = frozenset(("Extent", "Histogram", "_reconstruct", "ndarray", "dtype", "_frombuffer", "scalar"))

    def find_class(self, module: str, name: str) -> Any:
        if name in self._KNOWN and module.split(".")[0] in ("graphopt", "numpy"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a calibration cache")
