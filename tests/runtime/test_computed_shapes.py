"""Sizes that a model computes from the shapes of values far behind: found once each, at any depth."""

import numpy as np
import onnxruntime as ort
import pytest

from graphopt.errors import Declined
from graphopt.ir import Constant, DType, Graph, Model, Node, TensorType, Value
from graphopt.runtime.lower import computed_shapes
from graphopt.runtime.lower.computed_shapes import computed_sizes, shape_of, shape_sources
from graphopt.runtime.place.extract import extract
from graphopt.runtime.place.partition import Segment

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


@pytest.mark.parametrize("turned", [False, True])
def test_a_region_in_onnxruntime_reads_only_its_own_inputs(turned):
    """The target is the shape of a + table[ids], which that of a tells: ids do not enter the region."""
    a, ids = Value(OPEN, "a"), Value(TensorType(DType.INT64, ("batch", "steps")), "ids")
    graph = Graph("region", [a, ids])
    table = Value(constant=Constant.of(np.ones((5, 8), np.float32)), name="table")
    embedded = graph.append(Node("Gather", [table, ids], {}, [OPEN])).output
    far = graph.append(Node("Add", [embedded, a], {}, [OPEN])).output
    if turned:
        swapped = TensorType(DType.FLOAT, ("batch", 8, "steps"))
        far = graph.append(Node("Transpose", [far], {"perm": (0, 2, 1)}, [swapped])).output
    target = graph.append(Node("Shape", [far], {}, [SIZES])).output
    relu = graph.append(Node("Relu", [a], {}, [OPEN]))
    reshape = graph.append(Node("Reshape", [relu.output, target], {}, [far.type]))
    graph.set_outputs([reshape.output])
    model = Model(graph, {"": 17}, ir_version=10)
    part = ort.InferenceSession(extract(model, Segment((relu, reshape), (a,), (reshape.output,))))
    given = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)
    (found,) = part.run(None, {"graphopt_i0": given})
    shape = (2, 8, 3) if turned else (2, 3, 8)
    np.testing.assert_array_equal(found, np.maximum(given, 0).reshape(shape))
