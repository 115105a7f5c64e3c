"""Minimum cuts of choices between two sides.

The networks are small and sparse, and the shortest augmenting paths (Edmonds and Karp, 1972) have a few edges: networkx
takes ten times as long for them, and longer than all else of a session's creation to be imported.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Choices(Generic[Item]):
    """Items that stay or leave, each at a cost of its own; an edge costs more where only one of its ends leaves."""

    def __init__(self) -> None:
        self._gains: dict[Item, float] = {}
        self._edges: dict[Item, Counter[Item]] = {}
        self._outside: Counter[Item] = Counter()

    def add(self, item: Item, *, stays: float, leaves: float) -> None:
        """Add an item, with what it costs where it stays and where it leaves."""
        self._gains[item], self._edges[item] = stays - leaves, Counter()

    def connect(self, one: Item | None, other: Item | None) -> None:
        """Add an edge between two items; None is what has left anyway. One of an item to itself costs nothing."""
        if one is other:
            return
        for a, b in ((one, other), (other, one)):
            if a is not None and b is None:
                self._outside[a] += 1
            elif a is not None and b is not None:
                self._edges[a][b] += 1

    def leaving(self, price: float) -> set[Item]:
        """The items that leave in the cheapest choice, each edge at this price; of several, that with the fewest.

        What an item gains by leaving is a sink, what it loses a source: a flow through the edges pays one by the other.
        """
        gains = {item: gain + price * self._outside[item] for item, gain in self._gains.items()}
        spare = {item: {o: price * count for o, count in near.items()} for item, near in self._edges.items()}
        closed: set[Item] = set()  # what no longer reaches a gain, whatever still flows
        for source in gains:
            while gains[source] < 0 and source not in closed:
                path = _path(source, gains, spare, closed)
                if path:
                    _push(path, gains, spare)
        away = [item for item, gain in gains.items() if gain > 0]
        found = set(away)
        while away:
            item = away.pop()
            more = [other for other in spare[item] if other not in found and spare[other][item] > 0]
            found.update(more)
            away += more
        return found


def _path(
    source: Item, gains: dict[Item, float], spare: dict[Item, dict[Item, float]], closed: set[Item]
) -> list[Item]:
    """A shortest path to an item with a gain left; where there is none, all that the source reaches is closed."""
    before = {source: source}
    reached = [source]
    for item in reached:
        for other, rest in spare[item].items():
            if rest > 0 and other not in before and other not in closed:
                before[other] = item
                if gains[other] > 0:
                    path = [other]
                    while path[-1] is not source:
                        path.append(before[path[-1]])
                    return path[::-1]
                reached.append(other)
    closed.update(reached)
    return []


def _push(path: list[Item], gains: dict[Item, float], spare: dict[Item, dict[Item, float]]) -> None:
    """Let as much flow along a path as it takes."""
    edges = list(pairwise(path))
    flow = min(-gains[path[0]], gains[path[-1]], *(spare[one][other] for one, other in edges))
    gains[path[0]] += flow
    gains[path[-1]] -= flow
    for one, other in edges:
        spare[one][other] -= flow
        spare[other][one] += flow
