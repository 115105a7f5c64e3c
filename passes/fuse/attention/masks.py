"""Masks under which a row may have nothing to attend to, in a form that onnxruntime's attention answers alike."""

from __future__ import annotations

import numpy as np

from ....errors import Declined
from ....ir import DType, Graph, Node, Value
from ....rewrite import Builder, Context
from .core import shape_of

_Finite = tuple[Value, Value]


class Masks:
    """Biases of finite numbers in place of the masks of one graph, each made once: layers share their mask."""

    def __init__(self, graph: Graph, context: Context) -> None:
        self.graph, self.context = graph, context
        self._known: dict[Value, _Finite] = {}
        self._new: dict[Value, tuple[_Finite, list[Node]]] = {}

    def of(self, allowed: Value) -> _Finite:
        """The mask bool[B,1,S,L] as a bias of finite numbers, and which rows have anything at all, bool[B,S,1].

        The lowest number leaves what is masked no weight, either, as long as anything is not; other rows become zeros.
        """
        if allowed in self._known:
            return self._known[allowed]
        build = Builder(self.graph, self.context)
        if shape_of(allowed)[1] != 1 or build.opset < 13:
            raise Declined("heads have masks of their own")
        bias = build.Where(allowed, np.float32(0), np.finfo(np.float32).min)
        count = build.ReduceSum(build.Cast(allowed, to=int(DType.FLOAT)), np.array([3], np.int64), keepdims=1)
        rows = build.Cast(build.Squeeze(count, np.array([1], np.int64)), to=int(DType.BOOL))
        self._new[allowed] = (bias, rows), build.nodes
        return bias, rows

    def forget(self) -> None:
        """What was made since the last insertion is not wanted."""
        self._new.clear()

    def insert(self) -> None:
        """Put what was made behind the mask, so that every layer finds it before itself."""
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
