"""Angles of rotary embeddings as the tables by which onnxruntime's GroupQueryAttention turns its heads itself."""

from __future__ import annotations

import numpy as np

from ...analysis.operands import shape_of
from ...ir import Node, Value
from ...rewrite import Builder, Context


class Tables:
    """The tables of a graph, each made once for all layers, and what all of them share.

    tokens: an input [B,S,…]; marked: tokens by the mask, int64[1]; known: the value behind whose node what depends on
    these alone is inserted.
    """

    def __init__(self, tokens: Value, marked: Value, known: Value, context: Context) -> None:
        self.tokens, self.marked, self.known, self.context = tokens, marked, known, context
        self._made: dict[tuple[Value, Value], tuple[Value, ...]] = {}
        self._zeros: dict[int, Value] = {}
        self._places: dict[Value, Value] = {}

    def of(self, cos: Value, sin: Value, half: int) -> tuple[Value, ...]:
        """Angles f32[B,S,D/2], half = D/2, as tables with a row a token, and each token's row int64[B,S].

        The operator asks for as many rows as tokens, earlier ones, too: rows of zeros follow.
        """
        if (cos, sin) in self._made:
            return self._made[cos, sin]
        graph = producer_of(self.known).graph
        assert graph is not None
        first, build = Builder(graph, self.context), Builder(graph, self.context)
        if half not in self._zeros:
            sizes = first.Concat(self.marked, np.array([half], np.int64), axis=0)
            self._zeros[half] = first.ConstantOfShape(sizes)
        alike = (shape_of(cos) or ())[:2] == (shape_of(self.tokens) or ())[:2]
        counted, where = (self.tokens, first) if alike else (cos, build)
        if counted not in self._places:
            self._places[counted] = _places(where, counted)
        rows = [build.Reshape(angles, np.array([-1, half], np.int64)) for angles in (cos, sin)]
        tables = [build.Concat(one, self._zeros[half], axis=0) for one in rows]
        self._made[cos, sin] = (*tables, self._places[counted])
        made = [value.producer for value in (cos, sin) if value.producer is not None]
        first.insert_before(following(self.known), made)
        behind = max(made, key=graph.snapshot().index)
        build.insert_before(following(behind.output), made)
        return self._made[cos, sin]


def _places(build: Builder, tokens: Value) -> Value:
    """The places of tokens [B,S,…] in one row of them all, int64[B,S]."""
    sizes = build.Shape(tokens, start=0, end=2)
    count = build.ReduceProd(sizes, keepdims=0)
    return build.Reshape(build.Range(np.array(0, np.int64), count, np.array(1, np.int64)), sizes)


def producer_of(value: Value) -> Node:
    """The node that computes a value."""
    assert value.producer is not None
    return value.producer


def following(value: Value) -> Node:
    """The node that follows the one that computes a value."""
    node = producer_of(value)
    assert node.graph is not None
    nodes = [*node.graph.snapshot(), node.graph.return_node]
    return nodes[nodes.index(node) + 1]
