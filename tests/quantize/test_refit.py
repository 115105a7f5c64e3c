"""Layers refitted to their quantized inputs: streams, grids of few bits, closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.compress.frontier import Frontier
from graphopt.compress.stages import stage_context
from graphopt.measure import ort_session
from graphopt.passes.quantize.candidates.calibrated_model import CalibratedModel, calibrate_model
from graphopt.passes.quantize.numerics.grids import narrow_grid
from graphopt.passes.quantize.numerics.narrow import grouped_codes, narrow_codes
from graphopt.passes.quantize.numerics.rounding import best_codes
from graphopt.passes.quantize.numerics.single_rows import single_row_codes
from graphopt.passes.quantize.refit.closed_form import best_grid_for, refit
from graphopt.passes.quantize.refit.streams import Streams, layers_of
from tests.quantize.nets import convnet, images, parse

FREE = {"min_sqnr": -np.inf, "min_top1": 0.0}


def attention_free_block(seed: int = 0) -> onnx.ModelProto:
    """Products whose biases are Adds behind them, and one without a bias."""
    return parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,S,24] x) => (float[N,S,12] y)
        <float[24,48] w1, float[48] b1, float[48,24] w2, float[24] b2, float[24,12] w3>
        {
            m1 = MatMul(x, w1)
            a1 = Add(m1, b1)
            r1 = Relu(a1)
            m2 = MatMul(r1, w2)
            a2 = Add(m2, b2)
            s = Add(a2, x)
            y = MatMul(s, w3)
        }""",
        seed,
    )


def sequences(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((24, 24)) / 4
    return [{"x": (rng.standard_normal((1, 12, 24)) @ mixing).astype(np.float32)} for _ in range(count)]


NETS = {"convolutions": (convnet, images), "products": (attention_free_block, sequences)}


def noise(kind: str, **options: object) -> float:
    """The quantized model's noise to signal on inputs that were not calibrated on."""
    make, feeds = NETS[kind]
    model = make()
    quantize = graphopt.Quantize("static", speed=False, **{**FREE, **options})
    result = graphopt.optimize(model, calibration=feeds(32), quantize=quantize, validate=False)
    assert result.report.stages[0].changed
    sessions = [ort_session(m.SerializeToString()) for m in (model, result.model)]
    pairs = [[s.run(None, feed)[0] for s in sessions] for feed in feeds(16, seed=7)]
    return sum(float(np.square(a - b).sum()) for a, b in pairs) / sum(float(np.square(a).sum()) for a, _ in pairs)


def calibrated(kind: str, **options: object) -> tuple[CalibratedModel, object, list[dict[str, np.ndarray]]]:
    make, feeds = NETS[kind]
    model, given = onnx_io.load(make()), feeds(16)
    context = stage_context(model, given)
    return (
        calibrate_model(model, graphopt.Quantize("static", speed=False, **{**FREE, **options}), context),
        context,
        given,
    )


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("widths", [("int4", "uint4"), ("int2", "uint8")])
def test_refitted_layers_are_closer_on_fresh_inputs(kind, widths):
    weight, activation = widths
    nearest, refitted = (
        noise(kind, weight_type=weight, activation_type=activation, **options)
        for options in ({"rounding": False, "correct_bias": False}, {"rounding": "refit"})
    )
    assert refitted < 0.85 * nearest


@pytest.mark.parametrize("kind", NETS)
def test_the_simulation_computes_what_is_emitted(kind):
    """Float weights between quantized activations give the results of the QDQ model, up to codes at a tie."""
    from graphopt.passes.quantize.emit.qdq import build, simulated

    found, _, feeds = calibrated(kind, weight_type="int4")
    a, b = (ort_session(m, options={"session.x64quantprecision": "1"})
            for m in (simulated(found.assignment).model, build(found.assignment)))  # fmt: skip
    given = [(s.run(None, feeds[0])[0]) for s in (a, b)]
    assert np.abs(given[0] - given[1]).max() < 0.03 * np.abs(given[0]).max()


def test_every_layer_is_fitted_to_what_the_layers_before_it_yield():
    found, context, feeds = calibrated("convolutions", activation_type="uint4", weight_type="int4", rounding="refit")
    fitted = refit(found.assignment, context, feeds)
    streams = Streams(fitted, feeds, 0)
    layer = layers_of(fitted)[1]
    streams.advance(layer)
    rows = streams.rows(layer)
    both = rows.all
    weight = (fitted.codes[layer.node].rows * fitted.codes[layer.node].scale).astype(np.float64).transpose(0, 2, 1)
    old = found.assignment.codes[layer.node]
    before = (old.rows * old.scale).astype(np.float64).transpose(0, 2, 1)
    assert fitted.codes[layer.node].bias is not None and old.bias is not None
    assert both.error(weight, fitted.codes[layer.node].bias[None]) < both.error(before, old.bias[None])


def test_shared_weights_are_left_alone():
    found, context, feeds = calibrated("products", weight_type="int4")
    shared = found.assignment.shared
    first, second = (u.node for u in layers_of(found.assignment)[:2])
    tied = replace(found.assignment, shared=replace(shared, codes_of={second: first}))
    fitted = refit(tied, context, feeds)
    assert all(fitted.codes[node] is found.assignment.codes[node] for node in (first, second))


def test_a_range_of_few_bits_clips_rare_values():
    rng = np.random.default_rng(0)
    values = np.append(np.abs(rng.standard_normal(20_000)), [40.0]).astype(np.float32)
    old = narrow_grid(0.0, 40.0, 4, False)
    grid = best_grid_for(values, old)
    errors = [float(np.square(g.rounded(values[:-1]) - values[:-1]).mean()) for g in (old, grid)]
    assert errors[1] < 0.3 * errors[0] and grid.zero == 0 and (grid.bits, grid.signed) == (4, False)
    assert best_grid_for(np.zeros(5, np.float32), old) is old


def test_rows_of_a_depthwise_convolution_are_rounded_together():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((7, 1, 9)).astype(np.float32)
    mixing = rng.standard_normal((7, 9, 9)).astype(np.float32)
    matrices = mixing @ mixing.transpose(0, 2, 1)
    codes, scale = grouped_codes(rows, matrices, 3)
    costs = []
    for g in range(7):
        alone, step = narrow_codes(rows[g], matrices[g], 3)
        costs.append([float((row @ matrices[g] @ row.T).item())
                      for row in (rows[g] - codes[g] * scale[g], rows[g] - alone * step[:, None])])  # fmt: skip
    together, single = np.sum(costs, axis=0)
    assert together < 1.1 * single and codes.dtype == np.int8


@pytest.mark.parametrize("size", [9, 25])
def test_single_rows_of_eight_bits_are_rounded_as_each_by_itself(size):
    rng = np.random.default_rng(size)
    rows = rng.standard_normal((12, size)).astype(np.float32)
    patches = (rng.standard_normal((12, 80, size)) @ rng.standard_normal((12, size, size))).astype(np.float32)
    matrices = patches.transpose(0, 2, 1) @ patches / 80
    scale, high = np.abs(rows).max(axis=1) / 100, np.full(rows.shape, 127, np.int8)
    together = single_row_codes(rows, scale, -high, high, matrices)
    for g in range(12):
        wide = np.full((1, size), scale[g], np.float32)
        alone = best_codes(rows[g : g + 1], wide, -high[g : g + 1], high[g : g + 1], matrices[g])
        assert (together[g] == alone[0]).all()
    broken = matrices.copy()
    broken[3] = -np.eye(size)  # as rounding may leave it; the others are rounded as before
    found = single_row_codes(rows, scale, -high, high, broken)
    assert (np.delete(found, 3, axis=0) == np.delete(together, 3, axis=0)).all()


def test_a_frontier_goes_back_to_a_point_that_it_passed():
    model = onnx_io.load(convnet())
    frontier = Frontier(model, images(3))
    nodes = [node for node in model.graph if node.op == "Conv"]
    frontier.advance(nodes[1])
    mark, value = frontier.mark(), nodes[1].inputs[0]
    assert value is not None
    seen = [np.array(x) for x in frontier.values(value)]
    frontier.advance(nodes[3])
    with pytest.raises(KeyError):
        list(frontier.values(value))
    frontier.rewind(mark)
    assert all(np.array_equal(a, b) for a, b in zip(seen, frontier.values(value)))
    frontier.advance(nodes[2])
    assert len(list(frontier.values(nodes[2].inputs[0]))) == 3
