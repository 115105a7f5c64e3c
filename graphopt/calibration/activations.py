"""The inner values of a model, computed by onnxruntime on one sample after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import TypeVar

from ..equivalence.feeds import Feeds
from ..equivalence.onnx_graph import keep_read
from ..equivalence.runnable import RunnableModel, folder_of
from ..equivalence.tapped import TappedSession
from ..ir import Array, Model, Value
from ..onnx_io.emit import Emitter
from ..onnx_io.lend import Lender
from ..onnx_io.parts.tensors import write_tensor
from .peaks import NAME as PEAKS
from .peaks import add_peaks

T = TypeVar("T")

BUDGET = 1 << 28
"""Bytes of inner values yielded at once: a model's weights are often as large.
`python -m tests.bench.quantize_time` prints the peak memory."""


class Taps:
    """An emitted model whose values can be read: inputs, results and inner values of the root graph.

    `values` that are constants or belong to nested graphs are left out; `readable` holds the others. The model may
    change meanwhile: values are read from the copy that was emitted, without nodes that none of them needs. Inputs that
    no sample feeds are their `defaults`.

    peaks: values [N, C, space…] of which only the largest element of each channel is read. onnxruntime computes it in
    its own blocked layout, where returning the whole value takes a pass to reorder and one to copy. Values with peaks
    are not among `readable`.
    """

    def __init__(
        self, model: Model, values: Sequence[Value], threads: int | None = None, peaks: Set[Value] = frozenset()
    ) -> None:
        lender = Lender()
        emitter = Emitter(model, store=lender.store, store_inside=write_tensor)
        proto = emitter.model()
        names = {value: name for name, value in emitter.values.items()}
        self.inputs = {v: v.name for v in values if v.owner is model.graph}
        self.defaults = {v.name: v.default.array() for v in self.inputs if v.default is not None}
        self.names = {v: names[v] for v in values if v.producer is not None and v.graph is model.graph and v in names}
        self.peaks = add_peaks(proto.graph, self.names, [v for v in values if v in peaks])
        for value in () if self.peaks is None else self.peaks.channels:
            del self.names[value]
        if self.results:  # scores of all tokens at each position are often the most that a run takes
            keep_read(proto.graph, self.results)
        lent = {t.name: lender.lent[t.name] for t in proto.graph.initializer if t.name in lender.lent}
        self.source, self.threads = RunnableModel(proto, None, folder_of(model), lent), threads
        self._session: TappedSession | None = None
        self.readable = tuple(v for v in values if v in self.inputs or v in self.names)

    @property
    def results(self) -> tuple[str, ...]:
        """The names of the results that sessions have; peaks last."""
        return (*self.names.values(), *(() if self.peaks is None else (PEAKS,)))

    def open(self, threads: int | None) -> TappedSession:
        """A new session; ModelError when onnxruntime cannot load the model."""
        return self.source.session(optimize=True, threads=threads, taps=self.results)

    @property
    def session(self) -> TappedSession:
        """The session that `run` uses, opened at first use."""
        if self._session is None:
            self._session = self.open(self.threads)
        return self._session

    def run(self, feeds: Feeds, values: Sequence[Value] | None = None) -> dict[Value, Array]:
        """The requested values, by default all readable ones, on one sample. ModelError when the run fails."""
        wanted = self.readable if values is None else values
        taps = [self.names[v] for v in wanted if v in self.names]
        results, given = self.session.run(feeds, taps), {**self.defaults, **feeds}
        return {v: given[self.inputs[v]] if v in self.inputs else results[self.names[v]] for v in wanted}


def stream(
    model: Model, values: Sequence[Value], feeds: Iterable[Feeds], *, budget: int = BUDGET, threads: int | None = None
) -> Iterator[dict[Value, Array]]:
    """The values on each sample, in turn; where they take more than `budget` bytes, in several parts a sample."""
    taps = Taps(model, values, threads)
    for feed in feeds:
        if not taps.readable:
            return
        values_read = taps.run(feed)
        drained = ((value, values_read.pop(value)) for value in list(values_read))  # lets each array be freed
        for portion in portions(drained, lambda item: item[1].nbytes, budget):
            yield dict(portion)


def portions(items: Iterable[T], size: Callable[[T], int], budget: int) -> Iterator[list[T]]:
    """Items in order, in groups whose sizes add up to `budget` at most; a larger item is a group of its own."""
    portion: list[T] = []
    total = 0
    for item in items:
        own = size(item)
        if portion and total + own > budget:
            yield portion
            portion, total = [], 0
        portion.append(item)
        total += own
    if portion:
        yield portion
