"""Sizes that a model computes from the shapes of values far behind: found once each, at any depth."""

import pytest

from graphopt.errors import Declined
from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.runtime.lower import computed_shapes
from graphopt.runtime.lower.computed_shapes import computed_sizes, shape_of, shape_sources

OPEN = TensorType(DType.FLOAT, ("batch", "steps", 8))
SIZES = TensorType(DType.INT64, (3,))


def residual_adds(count):
    """x, then `count` times x + Relu(x): each Add reaches the one before along both operands."""
    x = Value(OPEN, "x")
    graph = Graph("residuals", [x])
    value = x
    for _ in range(count):
        branch = graph.append(Node("Relu", [value], {}, [OPEN])).output
        value = graph.append(Node("Add", [value, branch], {}, [OPEN])).output
    sizes = graph.append(Node("Shape", [value], {}, [SIZES])).output
    graph.set_outputs([sizes])
    return x, value, sizes


@pytest.fixture
def asked(monkeypatch):
    """How often a value's shape was sought."""
    seen = []
    seek = computed_shapes._Answers._find_shape
    monkeypatch.setattr(
        computed_shapes._Answers, "_find_shape", lambda self, value: seen.append(value) or seek(self, value)
    )
    return seen


def test_two_hundred_residual_adds_take_as_many_steps_as_there_are_nodes(asked):
    x, value, sizes = residual_adds(200)
    assert shape_of(value, {x: (2, 5, 8)}) == (2, 5, 8)
    assert 400 < len(asked) <= 2 * 401, "each of 401 values, given up at most once for what it waits for"
    assert computed_sizes(sizes, {x: (3, 1, 8)}) == (3, 1, 8)
    assert shape_sources(sizes, lambda one: one is x) == (x,)


def test_a_shape_that_cannot_be_known_is_declined_after_as_many_steps(asked):
    _, value, sizes = residual_adds(200)
    with pytest.raises(Declined, match="not known"):
        shape_of(value, {})
    assert 400 < len(asked) <= 3 * 401, "both operands of each Add are tried, once"
    with pytest.raises(Declined):
        computed_sizes(sizes, {})
