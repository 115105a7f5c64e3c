"""Positions of the nodes of a drawing: layers from top to bottom, cut into columns side by side.

fast-sugiyama computes the layers and the order within them (extra `report`); networkx is the fallback, less neat. Deep
networks are ribbons; they are cut where few edges cross and the pieces put side by side, like text in columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

Edge = tuple[int, int]
Point = tuple[float, float]

WIDTH, HEIGHT = 132.0, 34.0
"""The size of a node's box, in pixels."""

STEP_X, STEP_Y, GAP = 150.0, 58.0, 90.0
"""Pixels from box to box, from layer to layer, and between columns."""
_ASPECT = 1.7
"""Width over height that columns aim at: a wide screen's."""
_SPACING = 72.0
"""The distance of neighbours in the units of fast-sugiyama."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The centre of each node, and the points each edge passes, in pixels; y grows downwards."""

    points: tuple[Point, ...]
    routes: dict[Edge, tuple[Point, ...]]
    width: float
    height: float


@dataclass(slots=True)
class _Layers:
    """Positions as (x, layer) of nodes and of the bends of edges."""

    at: dict[int, tuple[float, int]] = field(default_factory=dict)
    bends: dict[Edge, list[tuple[float, int]]] = field(default_factory=dict)


def arrange(count: int, edges: Iterable[Edge]) -> Layout:
    """Lay out `count` nodes of a graph without cycles."""
    unique = sorted(set(edges))
    if not count:
        return Layout((), {}, 0.0, 0.0)
    linked = {node for edge in unique for node in edge}
    layers = _layered(unique) if unique else _Layers()
    alone = [node for node in range(count) if node not in linked]
    left = min((x for x, _ in layers.at.values()), default=0.0)
    for i, node in enumerate(alone, 1):
        layers.at[node] = (left - i * STEP_X, 0)
    return _columns(count, unique, layers)


def _layered(edges: Sequence[Edge]) -> _Layers:
    try:
        from fast_sugiyama import from_edges
    except ImportError:
        return _by_generations(edges)
    linked = sorted({node for edge in edges for node in edge})
    number = {node: i for i, node in enumerate(linked)}  # higher numbers are bends
    bent = len(linked)
    layers, offset = _Layers(), 0.0
    parts: Any = from_edges([(number[a], number[b]) for a, b in edges])
    for positions, *_, chains in sorted(parts, key=lambda part: min(node for node, _ in part[0])):
        levels = {y: i for i, y in enumerate(sorted({y for _, (_, y) in positions}, reverse=True))}
        left = min(x for _, (x, _) in positions)
        place = {node: ((x - left) / _SPACING * STEP_X + offset, levels[y]) for node, (x, y) in positions}
        offset = max(x for x, _ in place.values()) + STEP_X
        layers.at.update((linked[node], at) for node, at in place.items() if node < bent)
        routes = _routes(chains or (), place, bent)
        layers.bends.update(((linked[a], linked[b]), bends) for (a, b), bends in routes.items())
    _separate(layers)
    return layers


def _separate(layers: _Layers) -> None:
    """Move boxes of a layer to the right until none overlap; fast-sugiyama treats some as narrow as a bend."""
    rows: dict[int, list[int]] = {}
    for node, (_, level) in layers.at.items():
        rows.setdefault(level, []).append(node)
    for level, row in rows.items():
        least = -math.inf
        for node in sorted(row, key=lambda node: (layers.at[node][0], node)):
            x = max(layers.at[node][0], least)
            layers.at[node] = (x, level)
            least = x + STEP_X


def _routes(chains: Iterable[Edge], place: dict[int, Any], bent: int) -> dict[Edge, list[tuple[float, int]]]:
    """The bends of each long edge; fast-sugiyama numbers bends from `bent` on and chains them."""
    following: dict[int, int] = {a: b for a, b in chains if a >= bent}
    routes: dict[Edge, list[tuple[float, int]]] = {}
    for start, bend in chains:
        if start >= bent or bend < bent:
            continue
        passed = []
        while bend >= bent:
            passed.append(place[bend])
            bend = following[bend]
        routes[start, bend] = passed
    return routes


def _by_generations(edges: Sequence[Edge]) -> _Layers:
    """Longest-path layers; within a layer, ordered by the mean position of a node's predecessors."""
    graph = nx.DiGraph(list(edges))
    layers, mean = _Layers(), dict.fromkeys(graph, 0.0)
    for level, generation in enumerate(nx.topological_generations(graph)):
        for node in generation:
            before = [mean[p] for p in graph.predecessors(node)]
            mean[node] = sum(before) / len(before) if before else 0.0
        row = sorted(generation, key=lambda node: (mean[node], node))
        for i, node in enumerate(row):
            mean[node] = (i - (len(row) - 1) / 2) * STEP_X
            layers.at[node] = (mean[node], level)
    return layers


def _columns(count: int, edges: Sequence[Edge], layers: _Layers) -> Layout:
    everything = [*layers.at.values(), *(at for bends in layers.bends.values() for at in bends)]
    depth = 1 + max(level for _, level in everything)
    spread = max(x for x, _ in everything) - min(x for x, _ in everything) + STEP_X
    wanted = max(1, round(math.sqrt(_ASPECT * depth * STEP_Y / (spread + GAP))))
    cuts = _cuts(depth, wanted, edges, layers)
    column_of = [sum(level >= cut for cut in cuts) for level in range(depth)]
    starts = (0, *cuts)
    left: list[float] = []
    edge_of_page = 0.0
    for column in range(len(starts)):
        xs = [x for x, level in everything if column_of[level] == column]
        left.append(edge_of_page - min(xs))
        edge_of_page += max(xs) - min(xs) + STEP_X + GAP

    def pixel(at: tuple[float, int]) -> Point:
        column = column_of[at[1]]
        return round(at[0] + left[column] + STEP_X / 2, 1), (at[1] - starts[column]) * STEP_Y + STEP_Y / 2

    points = tuple(pixel(layers.at[node]) for node in range(count))
    routes = {(a, b): (points[a], *(pixel(bend) for bend in layers.bends.get((a, b), ())), points[b]) for a, b in edges}
    longest = max(b - a for a, b in zip(starts, (*cuts, depth)))
    return Layout(points, routes, edge_of_page - GAP, longest * STEP_Y)


def _cuts(depth: int, wanted: int, edges: Sequence[Edge], layers: _Layers) -> list[int]:
    """The layers at which columns after the first begin: near equal parts, where the fewest edges cross."""
    crossing = [0] * (depth + 1)
    for a, b in edges:
        crossing[layers.at[a][1] + 1] += 1
        crossing[layers.at[b][1] + 1] -= 1
    for level in range(1, depth + 1):
        crossing[level] += crossing[level - 1]
    cuts: list[int] = []
    for i in range(1, wanted):
        target, slack = depth * i // wanted, max(1, depth // (3 * wanted))
        near = range(max(target - slack, (cuts[-1] if cuts else 0) + 1), min(target + slack, depth - 1) + 1)
        if near:
            cuts.append(min(near, key=lambda level: (crossing[level], abs(level - target))))
    return cuts
