"""Groups that need care: integers, statistics, selections, sizes that are read while the model runs."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.analysis.channels import RANGE, STATISTICS, find_channels
from graphopt.ir import Model
from graphopt.measure import ort_session
from graphopt.passes.prune.cut.remove import remove
from graphopt.passes.prune.score.importance import weight_scores
from graphopt.passes.prune.score.measured import measured_scores
from tests.passes import harness
from tests.prune.oracle import assert_exact

RNG = np.random.default_rng(0)


def lift(text: str, opset: int, **weights: np.ndarray) -> Model:
    """A model as text whose weights are those given."""
    arrays = {name: np.asarray(array) for name, array in weights.items()}
    declared = ", ".join(
        f"{'float' if a.dtype == np.float32 else a.dtype}{list(a.shape) if a.shape else ''} {name}"
        for name, a in arrays.items()
    )
    return harness.lift(text.replace("{ ", f"<{declared}> {{ ", 1), opset, **arrays)


def codes(*shape: int) -> np.ndarray:
    return RNG.integers(-90, 90, shape).astype(np.int8)


def floats(*shape: int) -> np.ndarray:
    return RNG.uniform(0.005, 0.02, shape).astype(np.float32)


INTEGERS = {
    "dynamic": (
        """{ h = MatMul(x, a)
             r = Relu(h)
             q, s, z = DynamicQuantizeLinear(r)
             i = MatMulInteger(q, b, z, bz)
             f = Cast <to = 1> (i)
             t = Mul(s, bs)
             g = Mul(f, t)
             y = MatMul(g, c) }""",
        {"a": floats(6, 8), "b": codes(8, 10), "bz": codes(10), "bs": floats(10), "c": floats(10, 5)},
    ),
    "operators": (
        """{ q = QuantizeLinear(x, xs, xz)
             h = QLinearMatMul(q, xs, xz, a, as, az, xs, xz)
             g = QLinearMatMul(h, xs, xz, b, bs, bz, xs, xz)
             d = DequantizeLinear(g, xs, xz)
             y = MatMul(d, c) }""",
        {
            "xs": np.float32(0.02), "xz": np.uint8(128), "a": codes(6, 8), "as": floats(8), "az": np.zeros(8, np.int8),
            "b": codes(8, 10), "bs": np.float32(0.01), "bz": np.int8(0), "c": floats(10, 5),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGERS)
def test_products_of_integers(name):
    body, weights = INTEGERS[name]
    model = lift(f"m (float[N,6] x) => (float[N,5] y) {body}", 17, **weights)
    facts = find_channels(model)
    assert [group.size for group in facts.groups] == [8, 10]
    assert facts.groups[0].approximate == ((RANGE,) if name == "dynamic" else ())
    assert assert_exact(onnx_io.to_proto(model), 0, 0.5) == 9


def test_convolutions_of_integers():
    weights = {
        "xs": np.float32(0.02), "xz": np.uint8(120), "a": codes(8, 3, 3, 3), "as": floats(8),
        "az": np.zeros(8, np.int8), "ab": RNG.integers(-500, 500, 8).astype(np.int32), "d": codes(8, 1, 3, 3),
        "b": codes(6, 8, 1, 1),
        "ds": np.float32(0.01), "dz": np.int8(0),
    }  # fmt: skip
    text = """m (float[N,3,7,7] x) => (int32[N,6,5,5] y)
        { q = QuantizeLinear(x, xs, xz)
          h = QLinearConv <pads = [1, 1, 1, 1]> (q, xs, xz, a, as, az, xs, xz, ab)
          g = QLinearConv <group = 8> (h, xs, xz, d, ds, dz, xs, xz)
          y = ConvInteger(g, b, xz) }"""
    model = lift(text, 17, **weights)
    assert [group.size for group in find_channels(model).groups] == [8]
    assert assert_exact(onnx_io.to_proto(model), 0, 0.5) == 4


def test_channels_that_are_normalised_together_go_together():
    text = """m (float[N,3,6,6] x) => (float[N,5,6,6] y)
        { h = Conv(x, a)
          n = GroupNormalization <num_groups = 4> (h, s, b)
          y = Conv(n, c) }"""
    weights = {"a": floats(12, 3, 1, 1), "s": floats(12), "b": floats(12), "c": floats(5, 12, 1, 1)}
    model = lift(text, 21, **weights)
    (group,) = find_channels(model).groups
    assert group.size == 4 and not group.approximate
    assert assert_exact(onnx_io.to_proto(model), 0, 0.5) == 2


NORMS = {
    "layer": (
        "n = LayerNormalization <epsilon = 0.0> (h, one)", lambda h: (h - mean(h)) / np.sqrt(mean((h - mean(h)) ** 2))
    ),
    "mean": ("m = ReduceMean <axes = [1]> (h)\n n = Sub(h, m)", lambda h: h - mean(h)),
    "sum": ("m = ReduceSum(h, axis)\n n = Div(h, m)", lambda h: h / (mean(h) * 12)),
    "length": ("m = ReduceL2 <axes = [1]> (h)\n n = Div(h, m)", lambda h: h / np.sqrt(mean(h**2) * 12)),
    "largest": ("m = ReduceMax <axes = [1]> (h)\n n = Sub(h, m)", lambda h: h - h.max(1, keepdims=True)),
    "exponential": (
        "m = ReduceLogSumExp <axes = [1]> (h)\n n = Sub(h, m)", lambda h: h - np.log(mean(np.exp(h)) * 12)
    ),
}  # fmt: skip


def mean(h: np.ndarray) -> np.ndarray:
    return h.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("name", NORMS)
def test_statistics_are_those_of_the_kept_channels(name):
    middle, reference = NORMS[name]
    a, c = RNG.uniform(0.5, 1.5, (4, 12)).astype("f"), RNG.standard_normal((12, 5)).astype("f")
    text = f"m (float[N,4] x) => (float[N,5] y) {{ h = MatMul(x, a)\n {middle}\n y = MatMul(n, c) }}"
    weights = {"a": a, "c": c, "one": np.ones(12, "f"), "axis": np.array([1])}
    used = {k: v for k, v in weights.items() if k in ("a", "c") or k in middle}
    model = lift(text, 17, **used)
    facts = find_channels(model)
    (group,) = facts.groups
    assert group.approximate == (STATISTICS,)
    kept = np.ones(facts.count, bool)
    kept[group.classes[[1, 4, 5, 9, 11]]] = False
    left = kept[group.classes]
    remove(facts, kept)
    x = RNG.uniform(0.1, 1, (3, 4)).astype("f")
    (y,) = ort_session(onnx_io.to_proto(model).SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(y, reference(x @ a[:, left]) @ c[left], rtol=2e-4, atol=1e-4)


def test_statistics_and_selections_are_removed_only_when_asked_for():
    text = """m (float[N,16] x) => (float[N,16] y)
        { h = MatMul(x, a)
          n = LayerNormalization(h, s)
          g = MatMul(n, b)
          y = Add(g, x) }"""
    weights = {"a": floats(16, 24), "s": np.ones(24, "f"), "b": floats(24, 16)}
    proto = onnx_io.to_proto(lift(text, 17, **weights))
    refused = graphopt.optimize(proto, prune=0.5, validate=False).report.stages[0]
    assert not refused.changed and "statistics=True" in refused.summary
    asked = graphopt.Prune(ratio=0.5, round_to=1, statistics=True)
    assert graphopt.optimize(proto, prune=asked, validate=False).report.stages[0].figures["removed"] == 12


def test_a_layer_between_channels_that_stay_reads_a_selection():
    text = """m (float[N,16] x) => (float[N,16] y, float[N,16] h)
        { h = Gemm(x, a)
          g = MatMul(h, b)
          y = Add(g, x) }"""
    proto = onnx_io.to_proto(lift(text, 17, a=floats(16, 16), b=floats(16, 16)))
    facts = find_channels(onnx_io.load(proto))
    assert [(group.size, len(group.selections)) for group in facts.groups] == [(16, 1), (16, 1)]
    assert assert_exact(proto, 0, 0.5) == 16
    options = graphopt.Prune(ratio=0.5, round_to=1, select=True, iterative_steps=2)
    result = graphopt.optimize(proto, prune=options, validate=False)
    assert [node.op for node in result.ir.graph][:4] == ["Gather", "Gemm", "Gather", "MatMul"]
    assert all(row[0] == f"inputs of {row[4]}" for row in result.report.stages[0].rows)
    assert not graphopt.optimize(proto, prune=0.5, validate=False).report.stages[0].changed


SHARED_SIZE = """m (float[N,6] x, float[N,8] p) => (float[N,5] y, float[N,4,2] w)
    { h = MatMul(x, a)
      s = Shape <end = 1> (x)
      t = Concat <axis = 0> (s, numbers)
      r = Reshape(h, t)
      w = Reshape(p, t)
      f = Flatten(r)
      y = MatMul(f, c) }"""


def test_a_number_that_two_reshapes_share_stays():
    model = lift(SHARED_SIZE, 17, a=floats(6, 8), c=floats(8, 5), numbers=np.array([4, 2]))
    facts = find_channels(model)
    assert [len(group.makers) for group in facts.groups] == [0]
    assert any("reads its size" in held.reason for held in facts.fixed)


def test_who_else_reads_a_size_holds_its_channels():
    text = """m (float[N,6] x) => (float[N,5] y, int64[1] k)
        { h = MatMul(x, a)
          k = Shape <start = 1> (h)
          y = MatMul(h, c) }"""
    model = lift(text, 17, a=floats(6, 7), c=floats(7, 5))
    assert find_channels(model).groups == ()


def test_the_hidden_dimension_of_an_embedding_goes():
    text = """m (int64[N,4] x) => (float[N,4,5] y)
        { h = Gather(table, x)
          p = Add(h, places)
          r = PRelu(p, slope)
          y = MatMul(r, c) }"""
    weights = {"table": floats(30, 12), "places": floats(4, 12), "slope": floats(12), "c": floats(12, 5)}
    proto = onnx_io.to_proto(lift(text, 17, **weights))
    (group,) = find_channels(onnx_io.load(proto)).groups
    assert group.size == 12 and [layer.kind for layer in group.makers] == ["table"]
    x = {"x": np.arange(8).reshape(2, 4)}
    assert assert_exact(proto, 0, 0.5, [x]) == 6


@pytest.mark.parametrize("importance", ["reconstruction", "activation", "hessian", "l2"])
def test_scores_reach_readers_that_hold_no_floats(importance):
    """Each reader, whose rows cannot be taken, drops the channels that it reads with the smallest weights."""
    body, weights = INTEGERS["dynamic"]
    small = np.array([0, 3, 5, 6])
    weights = {**weights, "bz": np.zeros(10, np.int8)}
    weights["b"], weights["a"] = weights["b"].copy(), weights["a"].copy()
    weights["b"][small] = 1
    weights["a"][:, small] *= 0.01
    model = lift(f"m (float[N,6] x) => (float[N,5] y) {body}", 17, **weights)
    facts = find_channels(model)
    feeds = [{"x": RNG.uniform(0.1, 1, (4, 6)).astype("f")} for _ in range(3)]
    first = facts.groups[0].classes
    measured = importance != "l2"
    scores = measured_scores(model, facts, importance, feeds, 0) if measured else weight_scores(facts, "l2", 0)
    assert set(np.argsort(scores[first])[:4]) == set(small)
