"""Replacement of random operators in two models by equal values on both sides, which depend on shapes only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.inliner

from ..ir import Array
from ..ops import nested_graphs
from .onnx_graph import GraphIndex, walk_nodes
from .runnable import RunnableModel
from .ties import RANDOM, random_op

_OPSET = 15
"""The first operator set with all operators used here; it introduced CastLike."""
_STEPS = (0.6180339887498949, 0.4142135623730951)
"""The fractions of the golden ratio and of the square root of two: multiples of each, modulo 1, are evenly spread."""


def draw_alike(a: RunnableModel, b: RunnableModel) -> tuple[RunnableModel, RunnableModel]:
    """Copies in which each random operator gives fixed values of its distribution, those of `b` the values of `a`.

    Operators are paired by the name of their result, or by their order where names were lost. The models are returned
    unchanged where the pairing is unclear, or their operator set is too old.
    """
    if not any(node.op_type in RANDOM or node.op_type == "Dropout" for node in walk_nodes(a.proto)):
        return a, b
    protos = [_inlined(model.proto) for model in (a, b)]
    ours, theirs = ([node.output[0] for _, _, node in _random(p)] for p in protos)
    if not ours or any(_opset(p) < _OPSET for p in protos):
        return a, b
    if set(theirs) <= set(ours):
        numbers = {name: at for at, name in enumerate(ours)}
        salts = [numbers, numbers]
    elif len(ours) == len(theirs):
        salts = [{name: at for at, name in enumerate(names)} for names in (ours, theirs)]
    else:
        return a, b
    sides = zip((a, b), protos, salts, ("original", "candidate"))
    a, b = (m.edited(_replaced(p, s, side)) for m, p, s, side in sides)
    return a, b


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(proto) if proto.functions else proto
    return inlined


def _opset(proto: onnx.ModelProto) -> int:
    return max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)


def _random(proto: onnx.ModelProto) -> list[tuple[onnx.GraphProto, int, onnx.NodeProto]]:
    """The random operators in order, each with its graph and its index there."""
    index = GraphIndex(proto)

    def walk(graph: onnx.GraphProto) -> Iterator[tuple[onnx.GraphProto, int, onnx.NodeProto]]:
        for at, node in enumerate(graph.node):
            inner = nested_graphs(node)
            if not inner and random_op(node, index) is not None:
                yield graph, at, node
            for nested in inner:
                yield from walk(nested)

    return list(walk(proto.graph))


def _replaced(proto: onnx.ModelProto, salts: Mapping[str, int], side: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for graph, at, node in reversed(_random(copy)):
        nodes = [*graph.node[:at], *_Draws(node, salts[node.output[0]], side).nodes, *graph.node[at + 1 :]]
        kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del graph.node[:]
        graph.node.extend(kept)
    return copy


class _Draws:
    """The nodes that replace one random operator."""

    def __init__(self, node: onnx.NodeProto, number: int, side: str) -> None:
        self.prefix = f"{node.output[0]}::{side}"  # equal names on both sides would mean equal values
        self.node, self.nodes = node, list[onnx.NodeProto]()
        self.attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self.salt = 0.01 + 0.137 * number + float(self.attrs.get("seed", 0.0)) * 0.0173
        getattr(self, f"_{node.op_type}")()

    def _RandomNormalLike(self) -> None:
        self._normal(self.node.input[0])

    def _RandomUniformLike(self) -> None:
        self._uniform(self.node.input[0])

    def _RandomNormal(self) -> None:
        self._normal(self._shaped())

    def _RandomUniform(self) -> None:
        self._uniform(self._shaped())

    def _Bernoulli(self) -> None:
        chosen = self._add("Less", self._even(self.node.input[0]), self._double(self.node.input[0]))
        self._give(chosen, self.node.input[0])

    def _Multinomial(self) -> None:
        """The largest of log p - log(-log u): one u a class and sample."""
        rows = self._add("Reshape", self.node.input[0], self._constant(np.array([0, 1, -1])))
        count = np.array([1, self.attrs.get("sample_size", 1), 1])
        wide = self._add("Expand", rows, self._constant(count))
        gumbel = self._add("Log", self._add("Neg", self._add("Log", self._positive(wide))))
        best = self._add("ArgMax", self._add("Sub", self._double(wide), gumbel), axis=-1, keepdims=0)
        self._add("Cast", best, to=self.attrs.get("dtype", onnx.TensorProto.INT32), result=self.node.output[0])

    def _Dropout(self) -> None:
        x = self.node.input[0]
        ratio = self.node.input[1] if len(self.node.input) > 1 and self.node.input[1] else ""
        share = self._double(ratio) if ratio else self._number(0.5)
        kept = self._add("GreaterOrEqual", self._even(x), share)
        if len(self.node.input) > 2 and self.node.input[2]:
            kept = self._add("Or", kept, self._add("Not", self.node.input[2]))
            whole = self._add(
                "Where", self.node.input[2], self._add("Sub", self._number(1.0), share), self._number(1.0)
            )
        else:
            whole = self._add("Sub", self._number(1.0), share)
        scaled = self._add("Div", self._double(x), whole)
        self._give(self._add("Where", kept, scaled, self._number(0.0)), x)
        if len(self.node.output) > 1 and self.node.output[1]:
            self._add("Identity", kept, result=self.node.output[1])

    def _normal(self, like: str) -> None:
        """mean + scale sqrt(-2 log u) cos(2 pi v)"""
        length = self._add("Sqrt", self._add("Mul", self._add("Log", self._positive(like)), self._number(-2.0)))
        angle = self._add("Cos", self._add("Mul", self._even(like, 1), self._number(2 * np.pi)))
        drawn = self._add("Mul", length, angle)
        self._scaled(drawn, like, self.attrs.get("scale", 1.0), self.attrs.get("mean", 0.0))

    def _uniform(self, like: str) -> None:
        low, high = self.attrs.get("low", 0.0), self.attrs.get("high", 1.0)
        self._scaled(self._even(like), like, high - low, low)

    def _scaled(self, drawn: str, like: str, scale: float, shift: float) -> None:
        wide = self._add("Mul", drawn, self._number(scale))
        self._give(self._add("Add", wide, self._number(shift)), like)

    def _even(self, like: str, which: int = 0) -> str:
        """Numbers evenly spread over [0, 1), in the shape of `like`."""
        size = self._add("Size", like)
        places = self._add("Range", self._constant(np.int64(0)), size, self._constant(np.int64(1)))
        far = self._add("Mul", self._double(places), self._number(_STEPS[which]))
        salted = self._add("Add", far, self._number(self.salt))
        flat = self._add("Mod", salted, self._number(1.0), fmod=1)
        return self._add("Reshape", flat, self._add("Shape", like), allowzero=1)

    def _positive(self, like: str) -> str:
        """Numbers evenly spread over (0, 1), with finite log u and log(-log u)."""
        inner = self._add("Mul", self._even(like), self._number(0.998))
        return self._add("Add", inner, self._number(0.001))

    def _shaped(self) -> str:
        shape = self._constant(np.asarray(self.attrs["shape"], np.int64))
        return self._add("ConstantOfShape", shape)

    def _give(self, value: str, like: str) -> None:
        """The operator's result, in its own element type."""
        if "dtype" in self.attrs:
            self._add("Cast", value, to=self.attrs["dtype"], result=self.node.output[0])
        else:
            self._add("CastLike", value, like, result=self.node.output[0])

    def _double(self, value: str) -> str:
        return self._add("Cast", value, to=onnx.TensorProto.DOUBLE)

    def _number(self, value: float) -> str:
        return self._constant(np.float64(value))

    def _constant(self, value: Array | np.generic) -> str:
        return self._add("Constant", value=onnx.numpy_helper.from_array(np.asarray(value)))

    def _add(self, op: str, *inputs: str, result: str = "", **attrs: Any) -> str:
        name = result or f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, inputs, [name], **attrs))
        return name
