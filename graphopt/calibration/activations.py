"""The inner values of a model, computed by onnxruntime on one sample after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..equivalence.inputs import Feeds
from ..equivalence.source import Source
from ..ir import Model, Value

Array = np.ndarray[Any, Any]

BUDGET = 1 << 28
"""Bytes of inner values that are handed out at once."""


class Taps:
    """An emitted model whose values can be read: inputs, results and inner values of the root graph.

    `values` that are constants or belong to nested graphs are left out; `readable` holds the others. The model must
    not change while it is read. ModelError when onnxruntime cannot load the model.
    """

    def __init__(self, model: Model, values: Sequence[Value], threads: int | None = None) -> None:
        from ..equivalence.source import folder_of
        from ..onnx_io.emit import Emitter

        emitter = Emitter(model)
        proto = emitter.model()
        names = {value: name for name, value in emitter.values.items()}
        self.inputs = {v: v.name for v in values if v.owner is model.graph}
        self.names = {v: names[v] for v in values if v.producer is not None and v.graph is model.graph and v in names}
        source = Source(proto, None, folder_of(model))
        self.session = source.session(optimize=True, threads=threads, taps=self.names.values())
        self.readable = tuple(v for v in values if v in self.inputs or v in self.names)

    def run(self, feeds: Feeds, values: Sequence[Value] | None = None) -> dict[Value, Array]:
        """The readable values, or those asked for, on one sample. ModelError when the model cannot run on it."""
        wanted = self.readable if values is None else values
        taps = [self.names[v] for v in wanted if v in self.names]
        results = self.session.run(feeds, taps)
        return {v: feeds[self.inputs[v]] if v in self.inputs else results[self.names[v]] for v in wanted}


def stream(
    model: Model, values: Sequence[Value], feeds: Iterable[Feeds], *, budget: int = BUDGET, threads: int | None = None
) -> Iterator[dict[Value, Array]]:
    """The values on each sample, in turn; where they take more than `budget` bytes, in several parts a sample."""
    taps = Taps(model, values, threads)
    for feed in feeds:
        if not taps.readable:
            return
        whole = taps.run(feed)
        yield from parts(whole, budget)


def parts(values: dict[Value, Array], budget: int) -> Iterator[dict[Value, Array]]:
    """Values in groups of at most `budget` bytes; `values` is emptied on the way, so that arrays can go."""
    part: dict[Value, Array] = {}
    size = 0
    for value in list(values):
        array = values.pop(value)
        if part and size + array.nbytes > budget:
            yield part
            part, size = {}, 0
        part[value] = array
        size += array.nbytes
    if part:
        yield part
