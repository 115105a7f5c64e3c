"""Codes to fall back on: of 8 bits where fewer were asked for; of weights that products of floats read where inputs are
quantized while the model runs. Solved when a guard asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from ....ir import Node
from ..numerics.solve import Solved


class FinerCodes(Mapping[Node, Solved]):
    """Of each layer; `known` are those that were asked for."""

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
