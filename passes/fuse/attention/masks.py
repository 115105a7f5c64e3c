"""Masks with possibly empty rows, in a form for which onnxruntime's attention gives equal results."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ....errors import Declined
from ....ir import Array, Dim, DType, Graph, Node, Value
from ....machine.sessions import open_session, session_options
from ....rewrite import Builder, Context
from .core import dims_of

_LOWEST = np.finfo(np.float32).min
_ABOVE_LOWEST = np.nextafter(_LOWEST, np.float32(0))
_AS_SCORES = 8.0
"""A typical magnitude of scores: a bias within it adds no more rounding to their half-precision sum than scores do."""


class Masks:
    """Biases for which the kernel's results are equal, one for each mask or bias of a graph, shared by layers."""

    def __init__(self, graph: Graph, context: Context) -> None:
        self.graph, self.context = graph, context
        self._known: dict[Value, tuple[Value, ...]] = {}
        self._new: dict[Value, tuple[tuple[Value, ...], list[Node]]] = {}

    def of(self, allowed: Value) -> tuple[Value, ...]:
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

    def above_lowest(self, bias: Value) -> Value:
        """The bias with the lowest number replaced by the next one: softmax weighs a row of either evenly.

        onnxruntime's Attention gives zeros where a row holds nothing but the lowest number or -inf.
        """
        if not _may_be_lowest(bias):
            return bias
        if bias not in self._known:
            build = Builder(self.graph, self.context)
            choice = bias.producer
            if choice is not None and (ends := _constant_ends(choice)):
                moved = build.Where(choice.inputs[0], *(np.where(e == _LOWEST, _ABOVE_LOWEST, e) for e in ends))
            else:
                moved = build.Where(build.Equal(bias, _LOWEST), _ABOVE_LOWEST, bias)
            self._new[bias] = (moved,), build.nodes
            return moved
        return self._known[bias][0]

    def forget(self) -> None:
        """Discard the biases built since the last insertion."""
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


@lru_cache(maxsize=1)
def empty_rows_are_zeros() -> bool:
    """Whether the installed onnxruntime's Attention gives zeros for an all-False row of a boolean mask."""
    import onnx

    heads = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, (1, 1, 1, 2))
    allowed = onnx.helper.make_tensor_type_proto(onnx.TensorProto.BOOL, (1, 1, 1, 1))
    inputs = [onnx.helper.make_value_info(name, allowed if name == "mask" else heads) for name in ("x", "mask")]
    node = onnx.helper.make_node("Attention", ["x", "x", "x", "mask"], ["y"])
    graph = onnx.helper.make_graph([node], "row", inputs, [onnx.ValueInfoProto(name="y")])
    opset = [onnx.helper.make_opsetid("", 23)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)  # the IR of the first such opset
    session = open_session(model.SerializeToString(), session_options())
    feeds = {"x": np.ones((1, 1, 1, 2), np.float32), "mask": np.zeros((1, 1, 1, 1), bool)}
    return not np.asarray(session.run(None, feeds)[0]).any()


def with_shape_of_scores(bias: Value, scores: tuple[Dim, ...]) -> Value:
    """The bias, if it broadcasts over batch and heads alone, as the operators require; Declined otherwise."""
    shape = dims_of(bias)
    fits = len(shape) == 4 and None not in scores and shape[2:] == scores[2:]
    if not fits or any(s not in (1, d) for s, d in zip(shape[:2], scores[:2])):
        raise Declined("the bias does not have the shape of the scores")
    return bias


def _constant_ends(node: Node) -> list[Array]:
    """The two constants that a Where chooses from; none for any other node."""
    ends = [node.constant(slot) for slot in (1, 2)] if node.op == "Where" else []
    return [] if None in ends else [end.array() for end in ends if end is not None]


def _may_be_lowest(bias: Value) -> bool:
    """Whether a row of the bias may consist of the lowest number throughout."""
    node = bias.producer
    if node is not None and node.op == "Where":
        kept = [value for value in node.inputs[1:] if value is not None]
        return any(value.constant is None or bool((value.constant.array() <= _LOWEST).any()) for value in kept)
    return bias.constant is None or bool((bias.constant.array() <= _LOWEST).all(axis=-1).any())


def keeps_scores(bias: Value | None) -> bool:
    """Whether each row has an element that preserves the scores in half precision, too.

    A row of -3e4 or of the lowest number throughout rounds scores to coarse steps; the kernel adds in single precision.
    """
    if bias is None:
        return True
    return bias.constant is not None and bool((np.abs(bias.constant.array()) <= _AS_SCORES).any(axis=-1).all())
