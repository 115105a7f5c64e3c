"""Place units by a minimum cut of measured times.

Each unit costs its float or its integer time; a value that crosses between the two sides costs a conversion once,
however many read it. The cheapest assignment is a minimum cut between "integer" and "float" (Picard and Ratliff 1975).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from ....ir import Value
from ..candidates.units import Unit


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of each unit as float and as integers, and of quantizing and dequantizing each value."""

    as_float: Mapping[Unit, float]
    as_codes: Mapping[Unit, float]
    quantize: Mapping[Value, float]
    dequantize: Mapping[Value, float]

    def total(self, units: Set[Unit], chosen: Set[Unit]) -> float:
        """Seconds of all units when `chosen` run on integers, conversions included."""
        seconds = sum(self.as_codes[u] if u in chosen else self.as_float[u] for u in units)
        producer, readers = _flow({u for u in units if not u.is_table})
        for value in {*producer, *readers}:
            inside = value in producer and producer[value] in chosen
            reads = {u in chosen for u in readers.get(value, ())}
            if not inside and True in reads:
                seconds += self.quantize[value]
            if (
                inside
                and (False in reads or _leaves(value, readers.get(value, ())))
                and not producer[value].may_end_float
            ):
                seconds += self.dequantize[value]
        return seconds


def _flow(units: Set[Unit]) -> tuple[dict[Value, Unit], dict[Value, list[Unit]]]:
    """The producer of each value, and its readers, among units."""
    readers: dict[Value, list[Unit]] = {}
    for unit in units:
        for value in unit.inputs:
            readers.setdefault(value, []).append(unit)
    return {value: unit for unit in units for value in unit.outputs}, readers


def _leaves(value: Value, readers: Any) -> bool:
    """Whether a node outside of units reads the value: then its float form is always needed."""
    nodes = {unit.node for unit in readers} | {unit.clamp for unit in readers}
    return any(user not in nodes for user in value.users)


def cheapest(units: Set[Unit], costs: Costs) -> frozenset[Unit]:
    """The units that should run on integers; tables, which serve size, all stay."""
    import networkx as nx

    tables = frozenset(u for u in units if u.is_table)
    units = units - tables

    network: Any = nx.DiGraph()
    source, sink = "integer", "float"
    network.add_nodes_from((source, sink))
    producer, readers = _flow(units)
    for unit in units:
        _edge(network, source, unit, costs.as_float[unit])  # cut when the unit is on the float side
        _edge(network, unit, sink, costs.as_codes[unit])
    for value in dict.fromkeys((*producer, *readers)):
        maker, users = producer.get(value), readers.get(value, [])
        into, out = ("quantize", value), ("dequantize", value)
        if users:
            for user in users:
                _edge(network, user, into, None)
            _edge(network, into, maker if maker is not None else sink, costs.quantize[value])
        if maker is not None and not maker.may_end_float:
            _edge(network, maker, out, costs.dequantize[value])
            for user in users:
                _edge(network, out, user, None)
            if _leaves(value, users):
                _edge(network, out, sink, None)
    _, (inside, _) = nx.minimum_cut(network, source, sink)
    return tables | frozenset(unit for unit in units if unit in inside)


def _edge(network: Any, a: Any, b: Any, seconds: float | None) -> None:
    """Capacities in whole nanoseconds: cuts are exact then. None is infinite."""
    if seconds is None:
        network.add_edge(a, b)
    elif network.has_edge(a, b):
        if "capacity" in network[a][b]:
            network[a][b]["capacity"] += round(seconds * 1e9)
    else:
        network.add_edge(a, b, capacity=round(seconds * 1e9))
