"""Chunks of samples as work for any executor: threads share one session, processes open their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType

from ..equivalence.feeds import Feeds
from ..equivalence.runnable import open_runnable
from ..equivalence.tapped import TappedSession
from ..errors import InputError
from ..ir import Array
from ..machine.cpu import cpu_count
from ..parallel import Content, content, digest_of, submit
from .activations import Taps
from .observers import Extent
from .peaks import NAME as PEAKS
from .ranges import observer_for

CHUNK = 8
"""Samples that one task of a given executor takes: results are merged, and the cache is written, once a task."""
AHEAD = 4
"""Concurrent tasks, and the most threads of our own: bounds samples read ahead and values in memory. `python -m
tests.bench.quantize_time` shows time and peak memory."""
HELD = 1 << 29
"""Bytes of inner values that all threads of our own may hold; beyond, one worker uses all cores."""

NOTHING: Content = MappingProxyType({})
ObservedChunk = tuple[int, list[Extent]]
"""The number of samples of a chunk, and the observer of each value over them."""


@dataclass(frozen=True, slots=True)
class ChunkObserver:
    """Observes the inputs and tapped values `names`; without `session`, opens the model whose content digest is
    `model`.

    defaults: of inputs that samples may omit.
    """

    names: tuple[str, ...]
    inputs: frozenset[str]
    defaults: Mapping[str, Array]
    method: str
    session: TappedSession | None = None
    model: str = ""
    folder: str = ""

    def __call__(self, feeds: Sequence[Feeds]) -> list[Extent]:
        """The observer of each value over these samples."""
        extents = [Extent(axis=1) if name == PEAKS else observer_for(self.method) for name in self.names]
        taps = tuple(name for name in self.names if name not in self.inputs)
        session = self.session or _process_session(self.model, self.folder, taps)
        for feed in feeds:
            results, given = session.run(feed, taps), {**self.defaults, **feed}
            for extent, name in zip(extents, self.names):
                extent.add(given[name] if name in self.inputs else results.pop(name))
        return extents


@lru_cache(maxsize=1)
def _process_session(model: str, folder: str, taps: tuple[str, ...]) -> TappedSession:
    """This process's session, of one thread: other worker processes use the other cores."""
    source = open_runnable(content(model), folder=Path(folder) if folder else None)
    return source.session(optimize=True, threads=1, taps=taps)


def observe_chunks(
    taps: Taps, method: str, feeds: Iterable[Feeds], executor: Executor | None
) -> Iterator[ObservedChunk]:
    """The observations of each chunk of samples, in order. InputError, one line, where workers fail."""
    inputs = frozenset(taps.inputs.values())
    names = (taps.inputs.get(v) or taps.names[v] for v in taps.readable)
    observer = ChunkObserver((*names, *(() if taps.peaks is None else (PEAKS,))), inputs, taps.defaults, method)
    try:
        if executor is None:
            yield from _on_own_threads(observer, taps, iter(feeds))
        elif type(executor) is ThreadPoolExecutor:  # a subclass may run tasks in other interpreters or processes
            yield from _submitted(replace(observer, session=taps.open(1)), iter(feeds), executor, CHUNK)
        else:
            model = taps.source.whole().proto.SerializeToString()
            away = replace(observer, model=digest_of(model), folder=str(taps.source.folder or ""))
            yield from _submitted(away, iter(feeds), executor, CHUNK, {away.model: model})
    except BrokenExecutor as error:
        raise InputError(f"calibration: the executor broke down: {error}") from error


def _on_own_threads(observer: ChunkObserver, taps: Taps, feeds: Iterator[Feeds]) -> Iterator[ObservedChunk]:
    """Several samples at once on two cores each, faster than all cores on one; one at a time if they exceed `HELD`."""
    first = list(islice(feeds, 2))
    workers = max(1, min(cpu_count() // 2, AHEAD)) if len(first) > 1 else 1
    threads = max(1, cpu_count() // workers)
    observer = replace(observer, session=taps.open(threads))
    if not first:
        return
    extents = observer(first[:1])
    yield 1, extents
    rest = chain(first[1:], feeds)
    if workers > 1 and workers * sum(4 * extent.seen for extent in extents) > HELD:
        observer, workers = replace(observer, session=taps.open(None)), 1
    if workers == 1:
        yield from ((1, observer([feed])) for feed in rest)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from _submitted(observer, rest, pool, 1)


def _submitted(
    observer: ChunkObserver, feeds: Iterator[Feeds], executor: Executor, size: int, sent: Content = NOTHING
) -> Iterator[ObservedChunk]:
    """Observations by an executor, in order; when reading samples fails, chunks under way are still yielded."""
    under_way: deque[tuple[int, Future[list[Extent]]]] = deque()
    failure: Exception | None = None
    chunk: list[Feeds] = []
    try:
        while True:
            try:
                chunk = [] if failure else list(islice(feeds, size))
            except Exception as error:  # the source of samples may raise anything; raised again below
                failure, chunk = error, []
            if chunk:
                under_way.append((len(chunk), submit(executor, observer, (chunk,), sent)))
            if under_way and (not chunk or len(under_way) >= AHEAD):
                count, future = under_way.popleft()
                yield count, future.result()
            elif not chunk:
                break
        if failure is not None:
            raise failure
    finally:
        for _, future in under_way:
            future.cancel()
