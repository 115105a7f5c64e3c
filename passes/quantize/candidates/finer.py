"""Fallback codes, solved when a guard requests them: of 8 bits where fewer were requested; in mode dynamic, of weights
that float products read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from ....ir import Node
from ..numerics.solve import Solved


class FinerCodes(Mapping[Node, Solved]):
    """The fallback codes of each layer; `known`: those already solved."""

    def __init__(self, solve: Callable[[Node], Solved] | None = None, nodes: Iterable[Node] = ()) -> None:
        self._solve, self._nodes = solve, tuple(nodes)
        self.known: dict[Node, Solved] = {}

    def __getitem__(self, node: Node) -> Solved:
        if node not in self.known:
            if self._solve is None or node not in self._nodes:
                raise KeyError(node)
            self.known[node] = self._solve(node)
        return self.known[node]

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)
