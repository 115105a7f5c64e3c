"""Ranges of few bits, chosen by what they cost the results."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.compress.context import StageContext
from graphopt.compress.stages import stage_context
from graphopt.errors import ModelError
from graphopt.passes.quantize.candidates.calibrated_model import CalibratedModel, calibrate_model
from graphopt.passes.quantize.errors import output_ranges
from graphopt.passes.quantize.errors.output_ranges import output_histograms, slopes
from graphopt.passes.quantize.refit.closed_form import with_output_grids
from tests.quantize.nets import images, parse

LOUD = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,4,8,8] x) => (float[N,4,8,8] y)
<float[6,4,1,1] w1, float[4,6,1,1] w2> { c = Conv(x, w1)  r = Relu(c)  y = Conv(r, w2) }"""


def loud() -> onnx.ModelProto:
    """Between two convolutions a channel a hundred times as loud as the others, that hardly anyone hears."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((6, 4, 1, 1)), rng.standard_normal((4, 6, 1, 1))
    first[0] *= 100
    second[:, 0] *= 1e-6
    return parse(LOUD, w1=first, w2=second)


def calibrated(model: onnx.ModelProto, count: int = 40, **options: object) -> tuple[CalibratedModel, StageContext]:
    given = images(count, channels=model.graph.input[0].type.tensor_type.shape.dim[1].dim_value, size=8)
    loaded = onnx_io.load(model)
    context = stage_context(loaded, given)
    quantize = graphopt.Quantize("static", speed=False, min_sqnr=-np.inf, min_top1=0, **options)
    return calibrate_model(loaded, quantize, context), context


def test_slopes_are_those_of_the_results():
    """y = Relu(x) W over its norm along random signs: ∂⟨s, y⟩/∂x is s Wᵀ where x is positive."""
    model = onnx_io.load(
        parse('<ir_version: 8, opset_import: ["" : 17]> net (float[N,3] x) => (float[N,1] y)'
              "<float[3,1] w> { r = Relu(x)  y = MatMul(r, w) }", w=np.array([[1.0], [-2.0], [0.5]]))
    )  # fmt: skip
    value = model.graph.inputs[0]
    feeds = [{"x": np.array([[1.0, -1.0, 2.0]], np.float32)}]
    ((found, x, g),) = slopes(model, [value], feeds, seed=3)
    assert found is value and np.array_equal(x, feeds[0]["x"])
    assert np.allclose(np.abs(g), np.array([[1.0, 0.0, 0.5]]) / 2.0)  # |y| is 2


def test_grids_of_four_bits_are_chosen_by_the_results():
    found, context = calibrated(loud(), weight_type="int4", activation_type="uint4")
    feeds = list(context.calibration)
    after, chosen = with_output_grids(found.assignment, context, feeds)
    value = next(v for v in after.narrow if v.name == "r")
    assert value in chosen and after.narrow[value].scale < 0.3 * found.assignment.narrow[value].scale


def test_histograms_hold_the_energy_of_the_slopes():
    found, context = calibrated(loud())
    value = next(v for v in found.assignment.grids if v.name == "r")
    feeds = context.calibration.first(3)
    centres, weights = output_histograms(found.model, {value: (0.0, 1e3)}, feeds, 0)[value]
    energy = sum(float(np.square(g, dtype=np.float64).sum()) for _, _, g in slopes(found.model, [value], feeds, 0))
    assert weights.sum() == pytest.approx(energy) and (np.diff(centres) > 0).all()


def test_without_gradients_ranges_are_chosen_layer_by_layer(monkeypatch):
    def refused(*_: object) -> object:
        raise ModelError("no gradient")

    found, context = calibrated(loud(), activation_type="uint4", weight_type="int4")
    monkeypatch.setattr(output_ranges, "gradients", refused)
    after, chosen = with_output_grids(found.assignment, context, context.calibration.first(4))
    assert not chosen and after.narrow == found.assignment.narrow
