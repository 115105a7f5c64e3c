"""Peak memory of a run of a graph, by the live interval of each value."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..ir import Graph, TensorType, Type, Value


class Liveness:
    """The live intervals of a graph's values: computed at, last read at. Holds types only, no weights."""

    def __init__(self, graph: Graph) -> None:
        nodes = graph.snapshot()
        last: dict[Value, int] = {}
        for at, node in enumerate(nodes):
            last.update((v, at) for v in node.inputs if v is not None)
            last.update((v, at) for v in node.outputs if v not in last)
        kept, made = set(graph.outputs), {v for node in nodes for v in node.outputs}
        self._born: list[list[Type | None]] = [[v.type for v in node.outputs] for node in nodes]
        self._dead: list[list[Type | None]] = [[] for _ in nodes]
        for value, at in last.items():
            if value in made and value not in kept:
                self._dead[at].append(value.type)

    def peak(self, sizes: Mapping[str, int]) -> int:
        """The most bytes alive at once when the nodes run in order, without inputs and constants; `sizes`: of symbols.
        A tensor of unknown size counts as 0."""
        live = peak = 0
        for born, dead in zip(self._born, self._dead):
            live += sum(_bytes(kind, sizes) for kind in born)
            peak = max(peak, live)
            live -= sum(_bytes(kind, sizes) for kind in dead)
        return peak


def _bytes(kind: Type | None, sizes: Mapping[str, int]) -> int:
    if not isinstance(kind, TensorType) or kind.shape is None:
        return 0
    dims = [d if isinstance(d, int) else sizes.get(d or "", 0) for d in kind.shape]
    return math.prod(dims) * kind.dtype.bits // 8
