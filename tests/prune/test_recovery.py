"""Recovery: rows are what a layer multiplies, moments solve the regression, the frontier carries inner values."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.analysis.channels import channels
from graphopt.measure import ort_session
from graphopt.passes.prune import frontier as frontiers
from graphopt.passes.prune.frontier import Frontier
from graphopt.passes.prune.moments import Moments, fit
from graphopt.passes.prune.rows import can_regress, inputs_at, outputs_at, sample_places, weight_matrix, weight_tensor
from tests import nets
from tests.passes.harness import lift

CONVOLUTIONS = (
    "", "pads = [1, 1, 1, 1]", "strides = [2, 2]", "dilations = [2, 2], pads = [2, 1, 0, 3]", "group = 2",
    'auto_pad = "SAME_UPPER", strides = [2, 2]', 'auto_pad = "SAME_LOWER", strides = [2, 2]',
    "group = 4, pads = [1, 0, 1, 2]",
)  # fmt: skip


def layer_and_arrays(text: str, seed: int = 0):
    model = lift(text)
    (layer,) = channels(model).linears
    x = np.random.default_rng(seed).standard_normal(
        [2 if isinstance(d, str) else d for d in model.graph.inputs[0].type.shape]
    )
    session = ort_session(onnx_io.to_proto(model).SerializeToString())
    return layer, x.astype(np.float32), session.run(None, {"x": x.astype(np.float32)})[0]


def assert_rows_make_outputs(text: str) -> None:
    layer, x, y = layer_and_arrays(text)
    assert can_regress(layer)
    places = sample_places(layer, y.shape, 11, np.random.default_rng(1))
    rows, targets = inputs_at(layer, x, places), outputs_at(layer, y, places)
    weight = layer.weight.constant.array()
    matrix = weight_matrix(layer, weight)
    made = np.einsum("rgk,gkm->rgm", rows, matrix).reshape(len(places), -1)
    np.testing.assert_allclose(made, targets, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(weight_tensor(layer, matrix, weight.shape), weight)


@pytest.mark.parametrize("attributes", CONVOLUTIONS)
def test_rows_of_a_convolution(attributes):
    group = 4 if "group = 4" in attributes else 2 if "group = 2" in attributes else 1
    assert_rows_make_outputs(
        f"""
        m (float[N,4,7,6] x) => (float[N,8,P,Q] y) <float[8,{4 // group},3,3] w>
        {{ y = Conv <{attributes}> (x, w) }}""".replace("<>", "")
    )


def test_rows_of_a_convolution_in_one_dimension():
    assert_rows_make_outputs(
        "m (float[N,4,9] x) => (float[N,6,P] y) <float[6,4,3] w> { y = Conv <strides = [2]> (x, w) }"
    )


def test_rows_of_products():
    assert_rows_make_outputs("m (float[N,5,4] x) => (float[N,5,6] y) <float[4,6] w> { y = MatMul(x, w) }")
    assert_rows_make_outputs("m (float[N,4] x) => (float[N,6] y) <float[6,4] w> { y = Gemm <transB = 1> (x, w) }")


def test_moments_find_the_weights_that_made_the_rows():
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((2, 5, 3)), rng.standard_normal((2, 3))
    moments = Moments(2, 5, 6)
    for _ in range(7):
        x = rng.standard_normal((400, 2, 5)).astype(np.float32)
        moments.add(x, (np.einsum("rgk,gkm->rgm", x, weight) + bias).reshape(400, 6).astype(np.float32))
    found, shift = moments.solve(np.zeros_like(weight), np.zeros_like(bias), 1e-9)
    np.testing.assert_allclose(found, weight, atol=1e-3)
    np.testing.assert_allclose(shift, bias, atol=1e-3)
    assert moments.error(found, shift) < 1e-6 < moments.error(np.zeros_like(weight), np.zeros_like(bias))


def test_a_ridge_holds_on_to_the_old_weights_where_the_data_say_nothing():
    moments = Moments(1, 3, 1)
    x = np.zeros((500, 1, 3), np.float32)
    x[:, 0, 0] = np.random.default_rng(0).standard_normal(500)
    moments.add(x, 2 * x[:, 0, :1])
    found, _ = moments.solve(np.full((1, 3, 1), 5.0), np.zeros((1, 1)), 1e-4)
    np.testing.assert_allclose(found[0, :, 0], [2, 5, 5], atol=1e-2)


def test_few_rows_are_not_learned_by_heart():
    """12 noisy rows for 40 inputs, and old weights that are right: nothing fits the rows held back better."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((1, 40, 1))
    seen, held = Moments(1, 40, 1), Moments(1, 40, 1)
    for moments, rows in ((seen, 12), (held, 500)):
        x = rng.standard_normal((rows, 1, 40)).astype(np.float32)
        moments.add(x, (x[:, 0] @ weight[0] + 0.5 * rng.standard_normal((rows, 1))).astype(np.float32))
    assert fit(seen, held, weight, np.zeros((1, 1)), 1e-3, False) is None
    assert fit(held, held, 0 * weight, np.zeros((1, 1)), 1e-3, False) is not None


@pytest.mark.parametrize("budget", [1 << 29, 0])
def test_the_frontier_carries_what_the_model_computes(budget, monkeypatch):
    monkeypatch.setattr(frontiers, "BUDGET", budget)  # 0: every value waits on disk
    proto = nets.load("c2f")
    model = onnx_io.load(proto)
    feeds = [nets.feeds(proto, seed) for seed in range(3)]
    frontier = Frontier(model, feeds)
    wanted = [node for node in model.graph if node.op == "Conv"][1:]
    from graphopt.calibration import Taps

    taps = Taps(model, [node.inputs[0] for node in wanted])
    expected = [taps.run(feed) for feed in feeds]
    for node in wanted:
        frontier.advance(node)
        for value, arrays in zip(frontier.values(node.inputs[0]), expected):
            np.testing.assert_allclose(value, arrays[node.inputs[0]], rtol=1e-4, atol=1e-5)
