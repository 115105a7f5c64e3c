"""Propagates activations over all samples, layer by layer, while the weights change.

Every node runs once a sample: activations with later readers stay at the frontier, in memory or, beyond a budget, on
disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..equivalence.feeds import Feeds
from ..equivalence.runnable import PACKABLE
from ..ir import Array, Graph, Model, Node, Value, captures, clone_node
from ..machine.sessions import packing
from ..measure import ort_session
from ..onnx_io.weights import unpacked_bytes

BUDGET = 1 << 29
"""Bytes of frontier activations kept in memory: a bound, not tuned."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A position of a frontier, with the activations held there."""

    at: int
    samples: list[dict[Value, Array]]


class Frontier:
    """The activations of all samples at one position in the root graph's order. Nodes beyond it may change."""

    def __init__(self, model: Model, feeds: Iterable[Feeds]) -> None:
        self.model = model
        self.order = [*model.graph.snapshot(), model.graph.return_node]
        self.place = {node: k for k, node in enumerate(self.order)}
        self.at = 0
        self.last = self._last_uses()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._in_memory = self._written = 0
        names = {value.name: value for value in model.graph.inputs}
        self.samples = [{names[n]: self._keep(np.asarray(v)) for n, v in f.items() if n in names} for f in feeds]

    def values(self, value: Value) -> Iterator[Array]:
        """A value held at the frontier, on each sample."""
        for sample in self.samples:
            yield sample[value]

    def advance(self, node: Node) -> None:
        """Run everything before `node`."""
        end = self.place[node]
        if end <= self.at:
            return
        nodes = self.order[self.at : end]
        self.at = end
        waiting = [v for n in nodes for v in n.outputs if self.last.get(v, -1) >= end]
        inner = {v for n in nodes for v in n.outputs}
        read = list(dict.fromkeys(v for n in nodes for v in _reads(n) if v not in inner))
        run = _runner(self.model, nodes, read, waiting)
        for k, sample in enumerate(self.samples):
            results = run([sample[v] for v in read])
            kept = {v: a for v, a in sample.items() if self.last.get(v, -1) >= end}
            self._in_memory -= sum(
                a.nbytes for v, a in sample.items() if v not in kept and not isinstance(a, np.memmap)
            )
            kept.update((v, self._keep(np.asarray(a))) for v, a in zip(waiting, results))
            self.samples[k] = kept

    def advance_through(self, node: Node) -> None:
        """Run everything up to `node`, and `node`."""
        self.advance(self.order[self.place[node] + 1])

    def mark(self) -> Mark:
        """The current position, for `rewind`: lets nodes run again with other weights."""
        return Mark(self.at, [dict(sample) for sample in self.samples])

    def rewind(self, mark: Mark) -> None:
        """Return to an earlier position."""
        self.at, self.samples = mark.at, [dict(sample) for sample in mark.samples]
        self._in_memory = sum(a.nbytes for s in self.samples for a in s.values() if not isinstance(a, np.memmap))

    def _last_uses(self) -> dict[Value, int]:
        last: dict[Value, int] = {}
        for k, node in enumerate(self.order):
            for value in _reads(node):
                last[value] = k
        return last

    def _keep(self, array: Array) -> Array:
        if self._in_memory + array.nbytes <= BUDGET or array.dtype.kind not in "fiub":
            self._in_memory += array.nbytes
            return array
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="graphopt-")
        self._written += 1
        path = Path(self._folder.name, f"{self._written}.npy")
        np.save(path, array)
        mapped: Array = np.load(path, mmap_mode="r")
        return mapped


def _reads(node: Node) -> Iterator[Value]:
    for value in (*node.inputs, *captures(node)):
        if value is not None and value.constant is None:
            yield value


Run = Callable[[list[Array]], Sequence[Any]]


def _runner(model: Model, nodes: list[Node], read: list[Value], results: list[Value]) -> Run:
    values = {v: Value(v.type, f"i{k}") for k, v in enumerate(read)}
    piece = Graph("piece", values.values())
    for node in nodes:
        piece.append(clone_node(node, values))
    for k, v in enumerate(results):
        values[v].name = f"o{k}"
    piece.set_outputs([values[v] for v in results])
    small = Model(piece, dict(model.opsets), dict(model.functions), model.ir_version, folder=model.folder)
    names = [f"i{k}" for k in range(len(read))]
    if not results:
        return lambda arrays: []
    session = ort_session(small, threads=0, options=packing(unpacked_bytes(small) <= PACKABLE))
    return lambda arrays: session.run(None, dict(zip(names, arrays)))
