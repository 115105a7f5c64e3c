"""Recovery: rows of a layer, the normal equations that refit it, and the frontier that carries activations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.analysis.channels import find_channels
from graphopt.compress import frontier as frontiers
from graphopt.compress.frontier import Frontier
from graphopt.compress.layers.regression import NormalEquations, fit
from graphopt.compress.layers.rows import (
    check_refittable,
    inputs_at,
    outputs_at,
    sample_positions,
    weight_matrix,
    weight_tensor,
)
from graphopt.ir import clone_model
from graphopt.measure import ort_session
from graphopt.passes.prune import Prune
from graphopt.passes.prune.best_way import prune_model
from graphopt.passes.prune.cut.remove import remove
from graphopt.passes.prune.refit.held_out import HeldOutError
from graphopt.passes.prune.refit.recover import recover
from tests import nets
from tests.passes.harness import lift, parse

CONVOLUTIONS = (
    "", "pads = [1, 1, 1, 1]", "strides = [2, 2]", "dilations = [2, 2], pads = [2, 1, 0, 3]", "group = 2",
    'auto_pad = "SAME_UPPER", strides = [2, 2]', 'auto_pad = "SAME_LOWER", strides = [2, 2]',
    "group = 4, pads = [1, 0, 1, 2]",
)  # fmt: skip


def layer_and_arrays(text: str, seed: int = 0):
    model = lift(text)
    (layer,) = find_channels(model).layers
    x = np.random.default_rng(seed).standard_normal(
        [2 if isinstance(d, str) else d for d in model.graph.inputs[0].type.shape]
    )
    session = ort_session(onnx_io.to_proto(model).SerializeToString())
    return layer, x.astype(np.float32), session.run(None, {"x": x.astype(np.float32)})[0]


def assert_rows_make_outputs(text: str) -> None:
    layer, x, y = layer_and_arrays(text)
    check_refittable(layer)
    positions = sample_positions(layer, y.shape, 11, np.random.default_rng(1))
    rows, targets = inputs_at(layer, x, positions), outputs_at(layer, y, positions)
    weight = layer.weight.constant.array()
    matrix = weight_matrix(layer, weight)
    made = np.einsum("rgk,gkm->rgm", rows, matrix).reshape(len(positions), -1)
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


@pytest.mark.parametrize(
    "attributes", ["", "strides = [2, 3], pads = [1, 0, 0, 2]", "dilations = [2, 1], strides = [1, 2]",
                   "group = 2, strides = [2, 2], output_padding = [1, 1]", "group = 4"],
)  # fmt: skip
def test_rows_of_a_transposed_convolution(attributes):
    outputs = 1 if "group = 4" in attributes else 3
    assert_rows_make_outputs(
        f"""
        m (float[N,4,5,4] x) => (float[N,M,P,Q] y) <float[4,{outputs},3,2] w>
        {{ y = ConvTranspose <{attributes}> (x, w) }}""".replace("<>", "")
    )


def test_rows_of_products():
    assert_rows_make_outputs("m (float[N,5,4] x) => (float[N,5,6] y) <float[4,6] w> { y = MatMul(x, w) }")
    assert_rows_make_outputs("m (float[N,4] x) => (float[N,6] y) <float[6,4] w> { y = Gemm <transB = 1> (x, w) }")


def test_moments_find_the_weights_that_made_the_rows():
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((2, 5, 3)), rng.standard_normal((2, 3))
    equations = NormalEquations(2, 5, 6)
    for _ in range(7):
        x = rng.standard_normal((400, 2, 5)).astype(np.float32)
        equations.add(x, (np.einsum("rgk,gkm->rgm", x, weight) + bias).reshape(400, 6).astype(np.float32))
    found, shift = equations.solve(np.zeros_like(weight), np.zeros_like(bias), 1e-9)
    np.testing.assert_allclose(found, weight, atol=1e-3)
    np.testing.assert_allclose(shift, bias, atol=1e-3)
    assert equations.error(found, shift) < 1e-6 < equations.error(np.zeros_like(weight), np.zeros_like(bias))


def test_a_ridge_holds_on_to_the_old_weights_where_the_data_say_nothing():
    equations = NormalEquations(1, 3, 1)
    x = np.zeros((500, 1, 3), np.float32)
    x[:, 0, 0] = np.random.default_rng(0).standard_normal(500)
    equations.add(x, 2 * x[:, 0, :1])
    found, _ = equations.solve(np.full((1, 3, 1), 5.0), np.zeros((1, 1)), 1e-4)
    np.testing.assert_allclose(found[0, :, 0], [2, 5, 5], atol=1e-2)


def test_few_rows_are_not_learned_by_heart():
    """12 noisy rows for 40 inputs, and old weights that are right: nothing fits the held-out rows better."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((1, 40, 1))
    train, holdout = NormalEquations(1, 40, 1), NormalEquations(1, 40, 1)
    for equations, rows in ((train, 12), (holdout, 500)):
        x = rng.standard_normal((rows, 1, 40)).astype(np.float32)
        equations.add(x, (x[:, 0] @ weight[0] + 0.5 * rng.standard_normal((rows, 1))).astype(np.float32))
    assert fit(train, holdout, weight, np.zeros((1, 1)), 1e-3, False) is None
    assert fit(holdout, holdout, 0 * weight, np.zeros((1, 1)), 1e-3, False) is not None


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


CODES = np.random.default_rng(3).integers(-120, 120, (8, 6)).astype(np.int8)
SCALES = np.linspace(0.01, 0.02, 6).astype(np.float32)


@pytest.mark.parametrize("body", ["w = DequantizeLinear <axis = 1> (q, s, z)", "f = Cast <to = 1> (q)\n w = Mul(f, s)"])
def test_weights_of_codes_are_refitted_on_their_grid(body):
    """Half of the inputs repeat the other half: without them, doubled weights make the same outputs."""
    text = f"""m (float[N,4] x) => (float[N,6] y) <float[4,8] a, int8[8,6] q, float[6] s, int8[6] z>
        {{ h = MatMul(x, a)\n {body}\n y = MatMul(h, w) }}"""
    a = np.random.default_rng(4).standard_normal((4, 4)).astype("f")
    weights = {"a": np.concatenate([a, a], axis=1), "q": CODES, "s": SCALES, "z": np.zeros(6, np.int8)}
    original = lift(text, **weights)
    pruned = clone_model(original)
    facts = find_channels(pruned)
    kept = np.ones(facts.count, bool)
    kept[facts.groups[0].classes[4:]] = False
    remove(facts, kept)
    feeds = [{"x": np.random.default_rng(k).standard_normal((16, 4)).astype("f")} for k in range(20)]
    twins = dict(zip(pruned.graph.walk(), original.graph.walk()))
    recovery = recover(original, pruned, facts, feeds, twins, kept)
    (refit,) = recovery.refits
    assert not recovery.unfitted and not recovery.undone and refit.before > 0.1 and refit.after < 1e-3
    before, after = (
        ort_session(onnx_io.to_proto(m).SerializeToString()).run(None, feeds[0])[0] for m in (original, pruned)
    )
    np.testing.assert_allclose(after, before, atol=0.02 * np.abs(before).max())


INSIDE = """m (float[N,4] x, bool c) => (float[N,5] y) <float[4,8] a, float[8,5] b, float[4,5] d>
    { y = If (c) <then_branch = t () => (float[N,5] p) { h = MatMul(x, a)\n g = Relu(h)\n p = MatMul(g, b) },
                  else_branch = e () => (float[N,5] r) { r = MatMul(x, d) }> }"""


def test_what_is_not_refitted_is_told():
    result = graphopt.optimize(parse(INSIDE), prune=graphopt.Prune(ratio=0.5, round_to=1), validate=False)
    (stage,) = result.report.stages
    assert stage.changed and any("not refitted: it is in a nested graph" in why for _, why in stage.refused)


def test_a_refit_that_makes_results_worse_is_undone():
    held_out = HeldOutError(
        onnx_io.load(nets.load("residual")), [nets.feeds(nets.load("residual"), seed) for seed in range(12)]
    )
    assert len(held_out.samples) == len(held_out.feeds) == 3
    assert held_out.why_worse(np.array([0.1, 0.1, 0.1]), np.array([0.2, 0.05, 0.3])).startswith("refitting was undone")
    assert not held_out.why_worse(np.array([0.1, 0.1, 0.1]), np.array([0.05, 0.05, 0.9]))
    assert held_out.errors(onnx_io.load(nets.load("residual"))).max() < 1e-9
    few = HeldOutError(onnx_io.load(nets.load("residual")), [])
    assert not few.samples and not few.why_worse(np.zeros(0), np.zeros(0))


def test_results_come_back_where_learning_was_by_heart():
    """One sample row for every few weights: the refit is either better on samples apart, or undone."""
    rng = np.random.default_rng(1)
    text = """m (float[N,20] x) => (float[N,9] y) <float[20,64] a, float[64,9] c>
        { h = MatMul(x, a)
          r = Relu(h)
          y = MatMul(r, c) }"""
    model = lift(text)
    feeds = [{"x": rng.standard_normal((2, 20)).astype("f")} for _ in range(16)]
    options = Prune(ratio=0.4, round_to=1, importance="random", global_ranking=False)
    plain, full = (prune_model(model, replace(options, recover=recover), 0.4, feeds).model for recover in (False, True))
    held_out = HeldOutError(model, feeds)
    assert held_out.errors(full).mean() <= held_out.errors(plain).mean() * 1.001


def test_made_up_inputs_are_not_read_longer_than_they_tell(monkeypatch):
    """Two rows a weight where six are taken of data, and one multiple of the ridge: a third of the time."""
    from graphopt.passes.prune.refit import recover as module

    model = nets.load("residual")
    feeds = [nets.feeds(model, seed) for seed in range(3)]
    for is_rough in (False, True):
        tried = []
        monkeypatch.setattr(module, "fit", lambda *given, t=tried, **_: t.append(given[-1]))
        options = Prune(ratio=0.5, round_to=1, importance="l2")
        prune_model(onnx_io.load(model), options, 0.5, feeds, is_rough=is_rough)
        assert tried and set(tried) == {is_rough}
    for layer in find_channels(onnx_io.load(model)).layers:
        assert 2.9 < module._wanted_rows(layer, 6) / module._wanted_rows(layer, 2) < 3.1
