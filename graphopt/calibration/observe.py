"""Observe the values of a model over all samples: streaming, in parallel if wanted, resumable from a cache file."""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from itertools import islice
from pathlib import Path
from typing import Any

from ..equivalence.inputs import Feeds
from ..ir import Model, Value
from ..onnx_io import to_proto
from .activations import Taps
from .observers import Extent
from .ranges import observer_for
from .work import observe_chunks

Observed = dict[Value, Extent]


def observe(
    model: Model,
    values: Sequence[Value],
    feeds: Iterable[Feeds],
    method: str = "minmax",
    *,
    executor: Executor | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Observed:
    """What each value of the model's root graph was seen to hold; values that cannot be read are absent.

    executor: any of `concurrent.futures`, runs chunks of samples (threads share a session, processes open their own);
    without one, a few samples at a time where cores abound. cache: a file that remembers what was seen, to resume after
    an interruption; it is ignored where the model, the values or the method differ. progress: called with the number of
    samples seen.
    InputError for NaN or infinite values.
    """
    taps = Taps(model, values)
    totals = [observer_for(method) for _ in taps.readable]
    done = 0
    store = None if cache is None else _Cache(Path(cache), model, taps.names.values(), method)
    if store is not None:
        done, totals = store.load(totals)
    count = done
    for chunk, seen in observe_chunks(taps, method, islice(feeds, done, None), executor):
        for total, part in zip(totals, seen):
            total.merge(part)
        count += chunk
        if store is not None:
            store.save(count, totals)
        if progress is not None:
            progress(count)
    return dict(zip(taps.readable, totals))


class _Cache:
    """A file with observers and how many samples they saw. Written beside, then renamed."""

    def __init__(self, path: Path, model: Model, names: Iterable[str], method: str) -> None:
        self.path = path
        digest = hashlib.sha256(to_proto(model).SerializeToString(deterministic=True))
        digest.update("\0".join((method, *names)).encode())
        self.digest = digest.hexdigest()

    def load(self, empty: list[Any]) -> tuple[int, list[Any]]:
        try:
            with self.path.open("rb") as file:
                digest, count, totals = _Observers(file).load()
        except (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError):
            return 0, empty
        return (count, totals) if digest == self.digest and len(totals) == len(empty) else (0, empty)

    def save(self, count: int, totals: list[Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=self.path.parent, suffix=".part")
        with os.fdopen(descriptor, "wb") as file:
            pickle.dump((self.digest, count, totals), file, pickle.HIGHEST_PROTOCOL)
        os.replace(beside, self.path)


class _Observers(pickle.Unpickler):
    """Reads observers and arrays, and nothing else: a cache file may come from anywhere."""

    _KNOWN = frozenset(("Extent", "Histogram", "_reconstruct", "ndarray", "dtype", "_frombuffer", "scalar"))

    def find_class(self, module: str, name: str) -> Any:
        if name in self._KNOWN and module.split(".")[0] in ("graphopt", "numpy"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a calibration cache")
