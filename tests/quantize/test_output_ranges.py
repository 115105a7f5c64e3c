"""Ranges of activations chosen by what they cost the results, of 8 bits and of 4, by tensor and by channel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.compress.context import StageContext
from graphopt.compress.stages import stage_context
from graphopt.errors import ModelError
from graphopt.passes.quantize.candidates.calibrated_model import CalibratedModel, calibrate_model
from graphopt.passes.quantize.place import output_ranges
from graphopt.passes.quantize.place.output_ranges import (
    SAMPLES,
    SHARES,
    Sums,
    costs,
    last_feeds,
    narrowed_ranges,
    output_histograms,
    slopes,
    with_output_ranges,
)
from graphopt.passes.quantize.refit.closed_form import with_output_grids
from tests.quantize.nets import convnet, images, parse

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


def grid_of(found: CalibratedModel, name: str):
    return next(grid for value, grid in found.assignment.grids.items() if value.name == name)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("signed", [False, True])
def test_costs_are_those_of_the_equation(channels, signed):
    rng = np.random.default_rng(channels)
    ends = (-rng.uniform(1, 2, channels), rng.uniform(1, 2, channels))
    sums, samples = Sums.zeros(channels), []
    for _ in range(3):
        x, g = rng.standard_normal((2, 2, 3, 5, 4)).astype(np.float32)
        x[x > 1.5] = 0
        sums.add(x, g, ends)
        samples.append((x, g))
    found = costs(sums, ends, signed)
    assert found.shape == (len(SHARES), len(SHARES), channels)
    for a, b, c in ((0, 0, 0), (3, 7, channels - 1), (9, 2, 0)):
        low, high = ends[0][c] * SHARES[a], ends[1][c] * SHARES[b]
        step = (2 * max(-low, high) if signed else high - low) / 255
        expected = 0.0
        for x, g in samples:
            x, g = (x, g) if channels == 1 else (x[:, c], g[:, c])
            expected += step**2 / 12 * float((g * g * (x != 0)).sum()) + float((g * (x.clip(low, high) - x)).sum()) ** 2
        assert found[a, b, c] == pytest.approx(expected, rel=1e-4)


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


def test_a_range_leaves_out_what_results_do_not_hear():
    found, context = calibrated(loud())
    narrowed = with_output_ranges(found, context)
    before, after = (grid_of(one, "r").scale for one in (found, narrowed))
    assert after < 0.35 * before  # down to the smallest share
    assert grid_of(narrowed, "x").scale > 0.8 * grid_of(found, "x").scale  # every element of the image is heard


def test_ranges_stay_where_results_do_not_come_closer(monkeypatch):
    found, context = calibrated(loud())
    worse = {v: replace(grid, scale=grid.scale * 9) for v, grid in found.assignment.grids.items()}
    monkeypatch.setattr(output_ranges, "narrowed_grids", lambda a, *_: replace(a, grids=worse))
    assert with_output_ranges(found, context) is found


def test_activations_of_one_grid_keep_one():
    """Codes pass through MaxPool and, where ranges are alike, Concat."""
    found, context = calibrated_convnet()
    narrowed = with_output_ranges(found, context)
    assert grid_of(narrowed, "r2") is grid_of(narrowed, "p")


def calibrated_convnet(**options: object) -> tuple[CalibratedModel, StageContext]:
    loaded = onnx_io.load(convnet())
    context = stage_context(loaded, images(20))
    return calibrate_model(loaded, graphopt.Quantize("static", speed=False, **options), context), context


def test_channels_keep_the_same_share_of_their_ends():
    found, context = calibrated(loud())
    value = next(v for v in found.assignment.grids if v.name == "r")
    wide = np.array([500.0, 50, 50, 50, 50, 50])  # far above what is reached
    low, high = narrowed_ranges(
        found.model, {value: (np.zeros(6), wide)}, last_feeds(found.options, context), 0, False
    )[value]
    assert not low.any() and np.allclose(high, wide * SHARES[-1])


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
    centres, weights = output_histograms(found.model, {value: (np.zeros(1), np.full(1, 1e3))}, feeds, 0)[value]
    energy = sum(float(np.square(g, dtype=np.float64).sum()) for _, _, g in slopes(found.model, [value], feeds, 0))
    assert weights.sum() == pytest.approx(energy) and (np.diff(centres) > 0).all()


def test_the_samples_of_the_slopes_are_the_last():
    found, context = calibrated(loud())
    feeds = list(context.calibration)
    pairs = zip(last_feeds(found.options, context), feeds[-SAMPLES:], strict=True)
    assert all(np.array_equal(a["x"], b["x"]) for a, b in pairs)
    assert len(last_feeds(replace(found.options, samples=3), context)) == 3


def test_without_gradients_ranges_stay(monkeypatch):
    def refused(*_: object) -> object:
        raise ModelError("no gradient")

    found, context = calibrated(loud(), activation_type="uint4", weight_type="int4")
    wide, _ = calibrated(loud())
    monkeypatch.setattr(output_ranges, "gradients", refused)
    assert with_output_ranges(wide, context) is wide
    after, chosen = with_output_grids(found.assignment, context, context.calibration.first(4))
    assert not chosen and after.narrow == found.assignment.narrow


def test_refitting_tries_ranges_by_the_results(monkeypatch):
    """Also those of channels; without refitting none are tried, since each costs backward passes."""
    seen: list[str] = []
    real = output_ranges.slopes

    def watched(model: object, values: list[object], *rest: object) -> object:
        seen.append(type(values).__name__)
        return real(model, values, *rest)

    monkeypatch.setattr(output_ranges, "slopes", watched)
    for rounding, expected in ((True, 0), ("refit", 3)):  # one scale; channels, and then what has one scale there
        seen.clear()
        quantize = graphopt.Quantize("static", speed=False, rounding=rounding, min_sqnr=-np.inf, min_top1=0)
        graphopt.optimize(loud(), calibration=images(20, channels=4, size=8), quantize=quantize, validate=False)
        assert len(seen) == expected
