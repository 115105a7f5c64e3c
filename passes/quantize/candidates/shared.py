"""Weights that several readers share: a table and the head tied to it, a head behind Transpose, layers used twice.

They are identified by content, so that an exporter's duplicates count, too, and get the same codes, stored once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ....compress.layers.linear import PRODUCTS, Linear
from ....ir import Array, Constant, DType, Graph, Model, Node, Value
from ....ops import attr
from .units import Unit

SAMPLED = 16
"""Rows, and elements of each, sampled to distinguish weights before a full comparison. Not tuned."""


@dataclass(frozen=True, slots=True)
class Shared:
    """codes_of: for each node that shares another node's codes, that node. heads: for each table, the product tied to
    it."""

    codes_of: Mapping[Node, Node] = field(default_factory=dict)
    heads: Mapping[Node, Node] = field(default_factory=dict)

    def kept(self, units: frozenset[Unit], mode: str) -> frozenset[Unit]:
        """The units without tables whose head stays float and reads the float table; and, in mode weights, without
        heads whose table stays float."""
        if not self.heads:
            return units
        nodes = {unit.node for unit in units}
        alone = {table for table, head in self.heads.items() if head not in nodes}
        if mode == "weights":
            alone |= {head for table, head in self.heads.items() if table not in nodes}
        return frozenset(unit for unit in units if unit.node not in alone)


def read_transposed(model: Model) -> None:
    """W x with W = Transpose(constant) reads a transposed constant, in place: an ordinary layer."""
    graph, known = model.graph, dict[Value, Value]()
    for node in list(graph):
        source = node.input(1) if node.op in PRODUCTS else None
        transpose = None if source is None else source.producer
        if source is None or transpose is None or transpose.op != "Transpose" or transpose.graph is not graph:
            continue
        weight = transpose.constant(0)
        if weight is None or weight.dtype is not DType.FLOAT or len(weight.shape) != 2:
            continue
        if tuple(attr(transpose, "perm", None) or (1, 0)) != (1, 0):
            continue
        if source not in known:
            turned = Constant(weight.dtype, weight.shape[::-1], partial(_transposed, weight))
            name = transpose.inputs[0].name if transpose.inputs[0] is not None else ""
            known[source] = Value(constant=turned, name=f"{name}_transposed" if name else "")
        graph.set_input(node, 1, known[source])
        if source.is_unused:
            graph.erase(transpose)


def _transposed(weight: Constant) -> Array:
    return np.ascontiguousarray(weight.array().T)


def float_products(graph: Graph, units: Iterable[Unit]) -> list[Unit]:
    """The products with constant matrices that are not among the units and stay float."""
    known, found = {unit.node for unit in units}, []
    for node in graph:
        weight = node.constant(1) if node.op in PRODUCTS and node not in known else None
        if weight is not None and weight.dtype is DType.FLOAT and len(weight.shape) == 2:
            axis = 0 if node.op == "Gemm" and attr(node, "transB", 0) else 1
            found.append(Unit(node, None, (), node.outputs, linear=Linear(node, weight, None, axis, 1)))
    return found


def share_weights(units: Iterable[Unit], others: Iterable[Unit] = ()) -> tuple[list[Unit], Shared]:
    """The units, with tied tables in the rows of their product, and the sharing of weights; a table tied to one of
    `others`, which stay float, is dropped.

    A weight is compared as rows [N, K]: a table [V, H] is the head of V outputs that reads H inputs.
    """
    units, floats = list(units), list(others)
    by_content: dict[tuple[tuple[int, ...], bytes], list[Unit]] = {}
    for unit in (*units, *floats):
        if unit.linear is not None and unit.node.op != "Conv":
            by_content.setdefault(_sample(unit), []).append(unit)
    first_of: dict[Node, Node] = {}
    heads: dict[Node, Node] = {}
    for alike in by_content.values():
        ordered = sorted(alike, key=lambda u: u.is_table)  # products first: data guide the rounding of their codes
        distinct: list[Unit] = []
        for unit in ordered if len(ordered) > 1 else ():
            same = next((other for other in distinct if _are_equal(other, unit)), None)
            if same is None:
                distinct.append(unit)
                continue
            first_of[unit.node] = same.node
            if unit.is_table and not same.is_table:
                heads[unit.node] = same.node
    left = {unit.node for unit in floats}
    first_of = {node: first for node, first in first_of.items() if first not in left and node not in left}
    tied = [_as_rows(unit) if unit.node in heads else unit for unit in units if heads.get(unit.node) not in left]
    return tied, Shared(first_of, heads)


def _rows(unit: Unit, weight: Array) -> Array:
    """The weight as rows [N, K]: a view."""
    return weight if unit.node.op == "Gather" or unit.layer.axis == 0 else weight.T


def _are_equal(one: Unit, other: Unit) -> bool:
    """Whether two weights have the same rows."""
    return np.array_equal(_rows(one, one.layer.weight), _rows(other, other.layer.weight))


def _sample(unit: Unit) -> tuple[tuple[int, ...], bytes]:
    """The shape of a weight's rows and some of their elements: different weights differ in these."""
    rows = _rows(unit, unit.layer.stored_weight)
    some = rows[:: max(1, len(rows) // SAMPLED), :: max(1, rows.shape[1] // SAMPLED)]
    return rows.shape, some.astype(np.float32).tobytes()


def _as_rows(unit: Unit) -> Unit:
    """The table with one scale per row, as its head has one per output."""
    return replace(unit, linear=Linear(unit.node, unit.layer.constant, None, 0, 1))
