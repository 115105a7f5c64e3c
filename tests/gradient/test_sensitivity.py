"""Sensitivities from backward passes: their equation on a linear model, and their order against measured losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.stats import spearmanr

from graphopt import onnx_io
from graphopt.errors import InputError
from graphopt.gradient import fisher, predicted_losses
from graphopt.gradient.project.projector import Projector
from graphopt.ir import Constant, Node, Value
from graphopt.ops import update_types
from tests.quantize.nets import convnet, parse

from .checking import session
from .test_training import linear

MODELS = Path(__file__).parents[2] / "models"
BITS = 4


def test_a_linear_model() -> None:
    """y = x w + b: F of w[i, j] is E x_i², of b 1."""
    rng = np.random.default_rng(0)
    proto = linear(w=rng.standard_normal((4, 3)).astype(np.float32), b=np.ones(3, np.float32))
    x = rng.standard_normal((16, 1, 4)).astype(np.float32)
    found = fisher(proto, [{"x": row} for row in x])
    assert np.allclose(found["b"], 1)
    assert np.allclose(found["w"], np.repeat(np.mean(x[:, 0] ** 2, 0)[:, None], 3, 1), rtol=1e-5)
    with pytest.raises(InputError, match="there are none"):
        fisher(proto, [])


def test_predictions_are_exact_where_the_only_result_is_linear_in_a_weight() -> None:
    """y = Σ (x w + x wᵀ): a weight that two products read, one of them transposed."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[N, 3] x) => (float[N, 1] y) <float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, int64[1] one = {1}> {
        t = Transpose(w)
        p = MatMul(x, w)
        q = MatMul(x, t)
        s = Add(p, q)
        y = ReduceSum(s, one)
    }"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    x, change = rng.standard_normal((5, 1, 3)).astype(np.float32), rng.standard_normal((3, 3)).astype(np.float32)
    expected = float(np.square((x[:, 0] @ (change + change.T)).sum(1)).mean())
    for feeds in ([{"x": row} for row in x], [{"x": row[:, :3]} for row in x[:2]] + [{"x": row} for row in x[2:]]):
        assert predicted_losses(proto, feeds, {"w": change})["w"] == pytest.approx(expected, rel=1e-4)
    assert predicted_losses(proto, [], {}) == {}


def test_results_may_have_other_sizes_than_those_of_a_feed_of_the_same_sizes() -> None:
    """y = (x w)[:n] for an input n: ⟨∂y/∂w, δ⟩ = x δ in its first element, and 0 behind."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[1, 2] x, int64[1] n) => (float[k] y) <float[2, 4] w = {1, 2, 3, 4, 5, 6, 7, 8}, int64[1] zero = {0},
        int64[1] one = {1}, int64[1] all = {-1}> {
        p = MatMul(x, w)
        q = Reshape(p, all)
        y = Slice(q, zero, n, zero, one)
    }"""
    change = np.array([[1, 0, 0, 0], [2, 0, 0, 0]], np.float32)
    x = np.array([[3, 4]], np.float32)
    feeds = [{"x": x, "n": np.array([n])} for n in (2, 4, 1)]
    assert predicted_losses(onnx.parser.parse_model(text), feeds, {"w": change})["w"] == pytest.approx(121, rel=1e-4)


def test_samples_that_do_not_fit_are_one_line() -> None:
    proto = linear(w=np.ones((4, 3), np.float32), b=np.ones(3, np.float32))
    changes = {"w": np.ones((4, 3), np.float32)}
    for run in (lambda feeds: predicted_losses(proto, feeds, changes), lambda feeds: fisher(proto, feeds)):
        with pytest.raises(InputError, match="a sample has no 'x', but z"):
            run([{"z": np.ones((1, 4), np.float32)}])
        with pytest.raises(InputError, match="a sample does not run"):
            run([{"x": np.ones((1, 5), np.float32)}])
        with pytest.raises(InputError, match="there are none"):
            run(iter(()))


def test_the_order_of_layers_is_that_of_measured_losses() -> None:
    proto = onnx.load(MODELS / "fashion_cnn.onnx")
    images = np.load(MODELS / "fashion_calibration.npz")["image"][:24]
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer if len(t.dims) > 1}
    before = session(proto).run(None, {"image": images})[0]
    changes, measured = {}, []
    for name, w in weights.items():
        scale = np.abs(w).max(axis=tuple(range(1, w.ndim)), keepdims=True) / (2 ** (BITS - 1) - 1)
        change = (np.round(w / scale) * scale - w).astype(np.float32)
        changes[name] = change
        moved = onnx.ModelProto.FromString(proto.SerializeToString())
        tensor = next(t for t in moved.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(w + change, name))
        after = session(moved).run(None, {"image": images})[0]
        measured.append(float(np.square(after - before).sum(1).mean()))
    predicted = predicted_losses(proto, [{"image": image[None]} for image in images], changes)
    assert len(measured) > 10
    assert spearmanr(list(predicted.values()), measured).statistic >= 0.9


ATTENTION = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N,6,8] x) => (float[N,6,8] y)
    <float[8,24] w1, float[8,8] w2, float[8] g, int64[5] apart = {0, 0, 3, 2, 4}, int64[3] together = {0, 0, 8}>
    {
        n = LayerNormalization(x, g)
        a = MatMul(n, w1)
        b = Reshape(a, apart)
        c = Transpose<perm=[2,0,3,1,4]>(b)
        q, k, v = Split(c)
        t = Transpose<perm=[0,1,2,4,3]>(k)
        s = MatMul(q, t)
        p = Softmax(s)
        o = MatMul(p, v)
        m = Transpose<perm=[1,3,2,4,0]>(o)
        r = Reshape(m, together)
        h = MatMul(r, w2)
        y = Add(h, x)
    }"""


@pytest.mark.parametrize("proto, shape", [(convnet(), (1, 3, 16, 16)), (parse(ATTENTION), (1, 6, 8))])
def test_directions_of_one_sample_share_its_run(proto, shape) -> None:
    """As in a batch in which the sample is repeated; nothing that the sample alone decides is in the second half."""
    model = onnx_io.load(proto)
    values = [n.output for n in model.graph.snapshot() if n.op in ("Conv", "MatMul", "Relu", "Gemm", "Softmax")]
    changes = []
    for value in values:
        node = model.graph.append(Node("Mul", (value, Value(constant=Constant.of(np.float32(1.1))))))
        update_types(node)
        changes.append([(value, node.output)])
    projector = Projector(model, changes)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    (result,) = projector.shapes({"x": x})
    signs = [rng.choice([-1.0, 1.0], (4, *result[1:]))]
    expected = projector.squares({"x": np.repeat(x, 4, 0)}, signs)
    found = projector.squares_of_directions({"x": x}, signs)
    assert np.all(expected > 0) and np.allclose(found, expected, rtol=1e-4)
    first, second, crossings = projector._halves
    assert {c.is_shared for c in crossings} == {True, False}
    assert {i.name for i in second.get_inputs()} == {c.name for c in crossings} | {f"{projector.results[0]}.cotangent"}
    assert [i.name for i in first.get_inputs()] == ["x"]
