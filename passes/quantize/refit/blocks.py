"""Blocks of layers between two points where a single activation is live, such as a residual block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ....compress.frontier import Frontier
from ....compress.layers.linear import is_float32
from ....ir import Node, Value
from ..candidates.units import CLAMPS, Unit

FEWEST, MOST = 2, 8
"""Layers of a block: shorter blocks are joined with the next, longer blocks are fitted in closed form alone. Li et al.
2021 (BRECQ) found residual blocks best; the bounds are a choice."""


@dataclass(frozen=True, slots=True)
class Block:
    """Layers in execution order, and the last value of the block."""

    layers: tuple[Unit, ...]
    end: Value


def blocks_of(frontier: Frontier, layers: Sequence[Unit]) -> list[Block]:
    """The blocks of the frontier's model; layers after the last block's end are in none."""
    place, last = frontier.place, frontier.last
    first = min((place[u.node] for u in layers), default=0)
    derived: set[Value] = set()
    by_node = {u.node: u for u in layers}
    for node in frontier.order[first:]:
        if node in by_node or any(v in derived for v in node.inputs if v is not None):
            derived.update(v for v in node.outputs if is_float32(v))
    blocks: list[Block] = []
    waiting: set[Value] = set()
    open_: list[Unit] = []
    for at, node in enumerate(frontier.order):
        if node in by_node:
            open_.append(by_node[node])
        waiting = {v for v in waiting if last.get(v, -1) > at}
        waiting |= {v for v in node.outputs if v in derived and last.get(v, -1) > at}
        if len(waiting) != 1 or not open_:
            continue
        (end,) = waiting
        is_last = not any(place[u.node] > at for u in layers)
        if end.producer is node and (len(open_) >= FEWEST or is_last) and not _is_inner(end, by_node):
            blocks.append(Block(tuple(open_), end))
            open_ = []
    return blocks


def _is_inner(end: Value, units: Mapping[Node, Unit]) -> bool:
    """Whether a value is inside a unit: before its clamp, or between a product and its bias."""
    unit = None if end.producer is None else units.get(end.producer)
    if unit is not None and unit.layer.addition is not None:
        return True
    return end.has_one_use and end.users[0].op in CLAMPS
