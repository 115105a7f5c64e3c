"""Activations with a scale a channel: folded into the weights exactly, and better where channels are uneven."""

import itertools
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt import onnx_io
from graphopt.compress.layers.linear import linear_of
from graphopt.compress.stages import stage_context
from graphopt.equivalence.metrics import sqnr_db
from graphopt.measure import ort_session
from graphopt.passes.quantize import decide
from graphopt.passes.quantize.candidates.calibrated_model import calibrate_model
from graphopt.passes.quantize.emit.qdq import build
from graphopt.passes.quantize.numerics.per_channel import channel_energy, channel_grid, fold_channel_scales
from graphopt.passes.quantize.place import per_channel_activations
from graphopt.passes.quantize.place.bias_correction import with_bias_correction
from graphopt.passes.quantize.place.per_channel_activations import (
    channel_ranges,
    convolution_values,
    with_per_channel_activations,
    without_float_neighbours,
)
from graphopt.passes.quantize.refit.apply import with_refit
from tests.quantize.nets import convnet, images, parse

RNG = np.random.default_rng(0)
SEPARABLE = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,24,24] x) => (float[N,8,12,12] y)
<float[24,3,1,1] w1, float[24] b1, float[24,1,3,3] w2, float[24] b2, float[24,24,1,1] w3, float[24] b3,
 float[24,1,3,3] w4, float[24] b4, float[8,24,1,1] w5> {
  c1 = Conv(x, w1, b1)
  r1 = Relu(c1)
  c2 = Conv<pads=[1,1,1,1], group=24, strides=[2,2]>(r1, w2, b2)
  h2 = HardSigmoid<alpha=0.16666667>(c2)
  m2 = Mul(c2, h2)
  c3 = Conv(m2, w3, b3)
  h3 = HardSigmoid<alpha=0.16666667>(c3)
  m3 = Mul(c3, h3)
  c4 = Conv<pads=[1,1,1,1], group=24>(m3, w4, b4)
  r4 = Relu(c4)
  y = Conv(r4, w5)
}"""


def separable(size=24):
    """Convolutions in depth and across it, the channels of which differ a hundredfold."""
    rng = np.random.default_rng(1)
    spread = np.exp(np.linspace(0, 4.5, 24)).reshape(-1, 1, 1, 1)
    drawn = {name: rng.standard_normal(shape) for name, shape in (("w1", (24, 3, 1, 1)), ("w3", (24, 24, 1, 1)))}
    last = rng.standard_normal((8, 24, 1, 1)) / spread.reshape(1, 24, 1, 1)
    half = (size + 1) // 2
    text = SEPARABLE.replace("24,24] x", f"{size},{size}] x").replace("12,12] y", f"{half},{half}] y")
    return parse(text, w1=drawn["w1"] * spread, w3=drawn["w3"] * spread / 100, w5=last)


FEEDS = images(12, size=24)


def calibrated(model, feeds=FEEDS, **options):
    given = graphopt.Quantize(speed=False, min_sqnr=-100.0, min_top1=0.0, **options)
    lifted = onnx_io.load(model)
    context = stage_context(lifted, feeds)
    return calibrate_model(lifted, given, context), context


@pytest.mark.parametrize("signed, one_zero, mixed", itertools.product((False, True), repeat=3))
def test_codes_cover_each_channel(signed, one_zero, mixed):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        low, high = -rng.random(7) * 10.0 ** rng.integers(-3, 3, 7), rng.random(7) * 10.0 ** rng.integers(-3, 3, 7)
        low[0], high[1], low[2], high[2] = 0, 0, 0, 0
        grid = channel_grid(low, high, rng.random(7), (1, 7, 9, 9), signed=signed, one_zero=one_zero, mixed=mixed)
        least, most = (-127, 127) if signed else (0, 255)
        scale = grid.scale.astype(np.float64)
        assert ((least - grid.zero) * scale <= low + scale / 2).all()
        assert ((most - grid.zero) * scale >= high - scale / 2).all()
        assert ((grid.zero >= least) & (grid.zero <= most)).all()
        if signed or one_zero:
            assert (grid.zero == grid.base.zero_point).all() and not grid.lift.any()
        codes = rng.integers(least, most + 1, 7)
        means = scale * (codes - grid.zero)
        whole = grid.base.scale * (codes - grid.base.zero_point)
        np.testing.assert_allclose(grid.gain * whole + grid.lift, means, atol=1e-6 * abs(means).max())


@pytest.mark.parametrize("groups, inner, has_bias", itertools.product((1, 2, 6), (1, 3), (False, True)))
def test_a_folded_convolution_maps_folded_channels(groups, inner, has_bias):
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (float[1,6,5,5] x) => (float[1,12,a,b] y)
        <float[12,{6 // groups},{inner},{inner}] w, float[12] b> {{
          y = Conv<group={groups}>(x, w{", b" if has_bias else ""})
        }}"""
    )
    linear = linear_of(next(node for node in onnx_io.load(model).graph if node.op == "Conv"))
    read, made = (
        channel_grid(
            -RNG.random(count), RNG.random(count) * 10.0 ** RNG.integers(-2, 3, count), np.ones(count),
            (1, count, 5, 5), signed=False, one_zero=False, mixed=mixed,
        )
        for count, mixed in ((6, True), (12, False))
    )  # fmt: skip
    folded = fold_channel_scales(linear, read, made)
    x = RNG.standard_normal((1, 6, 5, 5))
    y = convolved(x, linear.weight, linear.bias, groups)
    z = convolved((x - along(read.lift)) / along(read.gain), folded.weight, folded.bias, groups)
    np.testing.assert_allclose(z * along(made.gain) + along(made.lift), y, atol=2e-5 * abs(y).max())
    assert fold_channel_scales(linear, None, None) is linear


def along(channels):
    return channels.reshape(1, -1, 1, 1)


def convolved(x, weight, bias, groups):
    """In float64, by definition."""
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    parts = np.split(windows, groups, axis=1), np.split(weight.astype(np.float64), groups)
    made = np.concatenate([np.einsum("nchwij,ocij->nohw", a, b) for a, b in zip(*parts)], axis=1)
    return made if bias is None else made + along(bias.astype(np.float64))


def test_energy_is_that_of_the_weights_each_channel_meets():
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[1,6,5,5] x) => (float[1,4,a,b] y)
        <float[4,3,2,2] w> { y = Conv<group=2>(x, w) }"""
    )
    linear = linear_of(next(node for node in onnx_io.load(model).graph if node.op == "Conv"))
    squares = linear.weight.astype(np.float64) ** 2
    expected = [squares[2 * g : 2 * g + 2, c].sum() for g in range(2) for c in range(3)]
    np.testing.assert_allclose(channel_energy(linear), expected)


def test_what_convolutions_alone_meet_gets_channels():
    found, context = calibrated(separable())
    made = with_per_channel_activations(found, context)
    assert made is not None
    names = {value.name for value in made.assignment.channels}
    assert {"r1", "m2", "c3", "m3", "r4"} <= names  # those of c2 too, unless that is a product's operand as codes
    for value, grid in made.assignment.channels.items():
        padded = value.name in ("r1", "m3")
        assert not (padded and grid.lift.any()), "zeros of the padding have to stay zeros"
    other, _ = calibrated(convnet(), images(4))
    found = {value.name for value in convolution_values(other, list(other.assignment.units))}
    assert found <= {"x", "r3", "c4"}, "sums and pools take one scale"


@pytest.mark.parametrize("size, room", [(64, (1.0, 1.5)), (2, (1.5, 3.0))])
def test_ranges_leave_room_for_what_few_elements_do_not_show(size, room):
    """Of 131,072 elements the largest is about what the next as many hold; of 128 it is not."""
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,{size},{size}] x) => (float[1,3,a,b] y)
        <float[3,3,1,1] w> {{ y = Conv(x, w) }}"""
    )
    lifted = onnx_io.load(model)
    (x,) = lifted.graph.inputs
    feeds = [{"x": RNG.standard_normal((1, 3, size, size)).astype(np.float32)} for _ in range(32)]
    low, high = channel_ranges(lifted, [x], feeds)[x]
    seen = np.concatenate([feed["x"] for feed in feeds]).transpose(1, 0, 2, 3).reshape(3, -1)
    for ratio in (low / seen.min(axis=1), high / seen.max(axis=1)):
        assert ((room[0] <= ratio) & (ratio <= room[1])).all()


@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
def test_uneven_channels_keep_their_accuracy(activation_type):
    ratios, layers = [], []
    for flag in (False, True):
        options = graphopt.Quantize(
            speed=False, min_sqnr=25.0, min_top1=0.0, per_channel_activations=flag, activation_type=activation_type
        )
        result = graphopt.optimize(separable(), quantize=options, calibration=FEEDS)
        figures = result.report.stages[-1].figures
        layers.append(figures["share_of_macs"])
        assert bool(figures["per_channel_activations"]) is flag
        assert ("scales a channel" in result.report.stages[-1].summary) is flag
        given, made = separable().SerializeToString(), result.model.SerializeToString()
        a, b = ([ort_session(m).run(None, f)[0] for f in images(4, 1, size=24)] for m in (given, made))
        ratios.append(sqnr_db(np.stack(a), np.stack(b)))
    assert layers[1] > layers[0], "more layers stay on integers"
    assert min(ratios) > 20


def quantized(size=24):
    """All of it on integers, with channels."""
    options = graphopt.Quantize(speed=False, min_sqnr=25.0, min_top1=0.0)
    feeds = images(12, size=size)
    made = graphopt.optimize(separable(size), quantize=options, calibration=feeds)
    assert made.report.stages[-1].figures["per_channel_activations"]
    return made.model


@pytest.mark.parametrize("size", [24, 4])  # runs of 576 and 144 elements a channel; of 16 and 4
def test_every_runtime_says_the_same(size):
    model = quantized(size)
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    quantizers = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert any(scales[n.input[1]].ndim == 1 for n in quantizers)
    assert any(makers.get(n.input[0]) in ("Mul", "Add") for n in quantizers) is (size == 4)
    read = {name for node in model.graph.node for name in node.input} | {v.name for v in model.graph.output}
    assert all(read & set(node.output) for node in model.graph.node), "nothing dangles"
    stock = ort_session(model.SerializeToString())
    plain = ort_session(model.SerializeToString(), optimize=False)
    session = graphopt.Session(model, kernels=True)
    assert session.regions
    for feed in images(4, 2, size=size):
        expected = plain.run(None, feed)[0]
        assert sqnr_db(expected, stock.run(None, feed)[0]) > 35
        assert sqnr_db(expected, session.run(None, feed)[0]) > 35


def test_means_are_corrected_in_the_scales_of_channels():
    """A bias off by what a channel's range is comes back to where it was."""
    found, context = calibrated(separable(), correct_means=True)
    made = with_per_channel_activations(found, context)
    assert made is not None
    codes = {
        node: held if held.bias is None else replace(held, bias=held.bias + np.float32(0.3) * abs(held.bias).max())
        for node, held in made.assignment.codes.items()
    }
    spoilt = replace(made, assignment=replace(made.assignment, codes=codes))
    mended = with_bias_correction(spoilt, context)
    ratios = [context.quality.fidelity(build(s.assignment)).sqnr_db for s in (made, spoilt, mended)]
    assert ratios[1] < 15 and ratios[2] > ratios[0] - 1


class Turned(frozenset):
    """A set that is iterated the other way round."""

    def __iter__(self):
        return iter(list(super().__iter__())[::-1])


def test_no_code_depends_on_the_order_of_a_set(monkeypatch):
    found, context = calibrated(separable())
    one = with_per_channel_activations(found, context)

    def turned(units):
        return Turned(without_float_neighbours(units))

    monkeypatch.setattr(per_channel_activations, "without_float_neighbours", turned)
    other = with_per_channel_activations(found, context)
    assert one is not None and other is not None and list(one.assignment.channels) == list(other.assignment.channels)
    for node, codes in one.assignment.codes.items():
        np.testing.assert_array_equal(codes.rows, other.assignment.codes[node].rows)


def test_transposes_cannot_move_over_channels():
    model = quantized()
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    apart = [
        n
        for n in model.graph.node
        if n.op_type in ("QuantizeLinear", "DequantizeLinear") and n.input[0] in makers and scales[n.input[1]].ndim
    ]
    assert apart
    for node in apart:
        users = [n for n in model.graph.node if node.output[0] in n.input]
        assert [n.op_type for n in (makers[node.input[0]], *users)] == ["Reshape", "Reshape"]


def test_the_result_is_recognised_and_kept():
    model = quantized()
    again = graphopt.optimize(model, quantize="static", calibration=FEEDS)
    assert "already quantized" in again.report.stages[-1].summary
    for feed in images(2, 3, size=24):
        a, b = (ort_session(m.SerializeToString()).run(None, feed)[0] for m in (model, again.model))
        assert sqnr_db(a, b) > 40
    assert sum(n.op_type == "QuantizeLinear" for n in again.model.graph.node) > 3


@pytest.mark.parametrize(
    "options, target",
    [
        ({"per_channel_activations": False}, "portable"), ({"format": "qoperator"}, "portable"),
        ({"per_channel": False}, "portable"), ({}, "graphopt"),
    ],
)  # fmt: skip
def test_where_one_scale_a_tensor_is_all_there_is(options, target):
    given = graphopt.Quantize(speed=False, min_sqnr=25.0, min_top1=0.0, **options)
    result = graphopt.optimize(separable(), quantize=given, calibration=FEEDS, target=target)
    assert not result.report.stages[-1].figures["per_channel_activations"]
    onnx.checker.check_model(result.model)


@pytest.mark.parametrize("per_channel", [True, False])
def test_only_the_closer_of_two_kinds_of_scales_is_refitted(per_channel, monkeypatch):
    seen: list[bool] = []

    def refitted(calibrated, context):
        seen.append(bool(calibrated.assignment.channels))
        return with_refit(calibrated, context)

    monkeypatch.setattr(decide, "with_refit", refitted)
    options = graphopt.Quantize(
        speed=False, min_sqnr=-np.inf, min_top1=0, rounding="refit", per_channel_activations=per_channel
    )
    result = graphopt.optimize(separable(), calibration=FEEDS, quantize=options, validate=False)
    assert seen == [per_channel]  # channels differ a hundredfold
    axes = {a.name for node in result.model.graph.node if node.op_type == "QuantizeLinear" for a in node.attribute}
    assert ("axis" in axes) is per_channel
