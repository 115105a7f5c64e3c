"""Nested graphs: If with constant, computed or input conditions, and Loop, both with captured values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...errors import Declined
from ...ir import DType, Graph, Node, Port, TensorType, Value
from ..sketch import WIDE, Sketch, ValueFacts
from . import elementwise, idioms, linear, quantized

_INNER = (elementwise.unary, elementwise.binary, elementwise.chain, elementwise.clip, idioms.swish, linear.product,
          elementwise.unary_twice, quantized.quantized_weight)  # fmt: skip


def branches(s: Sketch) -> None:
    """If(condition), both branches computing from the same captured value"""
    if s.depth > 1:
        raise Declined("deep enough")
    x = s.pick(*WIDE, bound=50.0)
    condition = _condition(s, x)
    graphs = [_body(s, name, x) for name in ("then_branch", "else_branch")]
    node = Node("If", [condition], dict(zip(("then_branch", "else_branch"), graphs)), [x.type])
    s.append(node, bound=100.0)


def _condition(s: Sketch, x: Value) -> Value:
    kind = s.choose(("constant", "input", "rank"))
    if kind == "input":
        given = [v for v in s.pool if isinstance(v.type, TensorType) and v.type == TensorType(DType.BOOL, ())]
        if given:
            return s.choose(given)
    if kind == "rank" and s.rank(x):
        size = s.node("Gather", s.node("Shape", x), s.constant(np.array(0, np.int64)))
        return s.node(s.choose(("Equal", "Greater")), size, s.constant(np.array(s.choose((1, 2)), np.int64)))
    return s.constant(np.array(s.chance(0.5)))


def _body(s: Sketch, name: str, x: Value) -> Graph:
    inner = s.nested(name)
    result = _grow(inner, x, s.integer(0, 2))
    if result.producer is None or result.producer.graph is not inner.graph:
        result = inner.node("Identity", x)
    inner.graph.set_outputs([result], [Port("", result.type)])
    return inner.graph


def _grow(inner: Sketch, x: Value, count: int) -> Value:
    """Append up to `count` blocks; returns the last value of x's own type, after Tanh where it is large."""
    result = x
    for _ in range(count):
        inner.attempt(inner.choose(_INNER))
    for value in inner.pool:
        if value.type == x.type and value.producer is not None and value.producer.graph is inner.graph:
            result = value
    if inner.facts[result].bound > 100:
        result = inner.node("Tanh", result)
    return result


def loop(s: Sketch) -> None:
    """Loop a few times over one carried value, with or without a scan output; perhaps another Loop in it"""
    if s.depth > 1:
        raise Declined("deep enough")
    _loop(s, s.pick(DType.FLOAT, bound=20.0), s.choose((1, 2, 0)) if s.depth == 0 else s.choose((1, 1, 2)))


def _loop(s: Sketch, x: Value, turns: int) -> Value:
    """The carried value of a Loop of `turns` iterations over `x`."""
    inner = s.nested("body")
    number = Value(TensorType(DType.INT64, ()), "i")
    going = Value(TensorType(DType.BOOL, ()), "going")
    carried = Value(x.type, "carried")
    for value, bound in ((number, 3.0), (going, 1.0), (carried, 20.0)):
        inner.graph.add_input(value)
        inner.facts[value] = ValueFacts(bound, value is not carried)
    inner.pool.append(carried)
    grown = _grow(inner, carried, s.integer(1, 2))
    if inner.depth < 2 and s.chance(0.3):
        grown = _loop(inner, grown, s.choose((1, 1, 2)))
    result = inner.node("Tanh", grown)
    go_on = inner.node("Identity", going)
    scanned = s.chance(0.4)
    results = [go_on, result, *([inner.node("Neg", carried)] if scanned else [])]
    inner.graph.set_outputs(results, [Port("", v.type) for v in results])
    trips = s.constant(np.array(turns, np.int64))
    types = [x.type, *([TensorType(DType.FLOAT, (None, *s.shape(x)))] if scanned else [])]
    node = Node("Loop", [trips, s.constant(np.array(True)), x], {"body": inner.graph}, types)
    return s.append(node, bound=20.0)[0]


Block = Callable[[Sketch], None]
BLOCKS: tuple[tuple[Block, int], ...] = ((branches, 3), (loop, 2))
