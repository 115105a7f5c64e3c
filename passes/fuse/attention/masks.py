"""Masks that may leave a row nothing to attend to, in a form for which onnxruntime's attention gives equal results."""

from __future__ import annotations

import numpy as np

from ....errors import Declined
from ....ir import DType, Graph, Node, Value
from ....rewrite import Builder, Context
from .core import dims_of

_Finite = tuple[Value, Value]


class Masks:
    """Finite biases for the masks of one graph, one a mask: layers share theirs."""

    def __init__(self, graph: Graph, context: Context) -> None:
        self.graph, self.context = graph, context
        self._known: dict[Value, _Finite] = {}
        self._new: dict[Value, tuple[_Finite, list[Node]]] = {}

    def of(self, allowed: Value) -> _Finite:
        """The mask bool[B,1,S,L] as a finite bias, and whether each row has an allowed element, bool[B,S,1].

        The lowest number gives masked elements the weight 0, as -inf does, in rows with an allowed one; others are 0.
        """
        if allowed in self._known:
            return self._known[allowed]
        build = Builder(self.graph, self.context)
        if dims_of(allowed)[1] != 1 or build.opset < 13:
            raise Declined("heads have masks of their own")
        bias = build.Where(allowed, np.float32(0), np.finfo(np.float32).min)
        count = build.ReduceSum(build.Cast(allowed, to=int(DType.FLOAT)), np.array([3], np.int64), keepdims=1)
        rows = build.Cast(build.Squeeze(count, np.array([1], np.int64)), to=int(DType.BOOL))
        self._new[allowed] = (bias, rows), build.nodes
        return bias, rows

    def forget(self) -> None:
        """Drop the biases built since the last insertion."""
        self._new.clear()

    def insert(self) -> None:
        """Put the new biases right after their masks, so that they are computed before each layer."""
        for allowed, (finite, nodes) in self._new.items():
            anchor = allowed.producer if allowed.producer is not None and allowed.producer.graph is self.graph else None
            first = next(iter(self.graph))
            for node in reversed(nodes) if anchor is not None else nodes:
                node.origins = first.origins if anchor is None else anchor.origins
                if anchor is None:
                    self.graph.insert_before(first, node)
                else:
                    self.graph.insert_after(anchor, node)
            self._known[allowed] = finite
        self._new.clear()
