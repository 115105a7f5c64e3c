"""The integers: patches, rounding, scales, pair safety, equalisation and placement, each against a plain oracle."""

import itertools

import numpy as np
import pytest
from onnx import numpy_helper

import graphopt
from graphopt import onnx_io
from graphopt.compress.layers.linear import linear_of
from graphopt.compress.layers.moments import InputMoments
from graphopt.ir import clone_model
from graphopt.measure import ort_session
from graphopt.passes.quantize.candidates.units import find_units
from graphopt.passes.quantize.numerics.equalize import equalize
from graphopt.passes.quantize.numerics.grids import PAIR_LIMIT, activation_grid, weight_scale, worst_pair
from graphopt.passes.quantize.numerics.rounding import best_codes, nearest, nearest_codes, objective
from graphopt.passes.quantize.options import Quantize
from graphopt.passes.quantize.place.min_cut import Costs, cheapest
from tests.quantize.nets import convnet, images, parse


@pytest.mark.parametrize(
    "attributes",
    ["pads=[1,1,1,1]", "strides=[2,2]", "dilations=[2,2]", 'auto_pad="SAME_UPPER", strides=[2,2]', "group=2"],
)
def test_patches_times_rows_are_the_convolution(attributes):
    channels = 2 if "group" in attributes else 4
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,4,9,9] x) => (float[N,6,a,b] y) <float[6,{channels},3,3] w, float[6] c>
        {{ y = Conv<{attributes}>(x, w, c) }}"""
    )
    lifted = onnx_io.load(model)
    linear = linear_of(next(iter(lifted.graph)))
    x = np.random.default_rng(0).standard_normal((2, 4, 9, 9)).astype(np.float32)
    expected = ort_session(model.SerializeToString()).run(None, {"x": x})[0]
    patches = linear.patches(x, 10**6, np.random.default_rng(0))  # [G, R, K]
    found = np.einsum("gnk,grk->grn", linear.rows(), patches) + linear.bias.reshape(linear.groups, 1, -1)
    found = found.transpose(1, 0, 2).reshape(2, *expected.shape[2:], 6).transpose(0, 3, 1, 2)
    assert np.allclose(found, expected, atol=1e-4)
    assert np.array_equal(linear.stored(linear.rows()), linear.weight)


@pytest.mark.parametrize("op", ["Gemm<transB=1>", "Gemm", "MatMul"])
def test_rows_of_products(op):
    shape = "5,7" if "transB" in op else "7,5"
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,7] x) => (float[N,5] y) <float[{shape}] w> {{ y = {op}(x, w) }}"""
    )
    linear = linear_of(next(iter(onnx_io.load(model).graph)))
    assert linear.channels == 5 and linear.depth == 7
    x = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    expected = ort_session(model.SerializeToString()).run(None, {"x": x})[0]
    assert np.allclose(linear.patches(x, 10, np.random.default_rng(0))[0] @ linear.rows()[0].T, expected, atol=1e-5)


def test_rounding_finds_the_optimum_of_small_problems():
    """All codes within reach are tried: J of what was found is at most a few percent above the least."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        mix = rng.standard_normal((5, 5)).astype(np.float32)
        c = (mix @ mix.T / 5 + 0.1 * np.eye(5)).astype(np.float32)
        w = rng.standard_normal((1, 5)).astype(np.float32)
        step = np.full((1, 5), 0.4, np.float32)
        low, high = np.full((1, 5), -7, np.int8), np.full((1, 5), 7, np.int8)
        found = objective(w - best_codes(w, step, low, high, c) * step, c)
        base = np.floor(w / step)
        every = (objective(w - (base + np.array(d)) * step, c) for d in itertools.product((-1, 0, 1, 2), repeat=5))
        assert found <= 1.35 * min(every) + 1e-9
        assert found <= objective(w - nearest(w, step, low, high) * step, c) + 1e-6


def test_no_error_costs_less_than_none():
    """One image again and again: the covariance is rounding alone, of either sign."""
    indefinite = np.array([[1, 1 + 1e-6], [1 + 1e-6, 1]], np.float32)
    assert objective(np.array([[1, -1]], np.float32), indefinite) == 0


@pytest.mark.parametrize("centred", [True, False])
def test_moments_keep_what_varies_little_beside_a_large_mean(centred):
    rng = np.random.default_rng(0)
    data = (30.0 + rng.normal(0, 0.01, (2, 5000, 6))).astype(np.float32)
    moments = InputMoments(0, np.zeros((2, 6), np.float32), np.zeros((2, 6, 6), np.float32))
    for start in range(0, 5000, 700):
        moments.add(data[:, start : start + 700])
    for group, rows in enumerate(data.astype(np.float64)):
        expected = np.cov(rows.T, bias=True) if centred else rows.T @ rows / len(rows)
        found = moments.covariance_of(group, centred)
        assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
        least = np.linalg.eigvalsh(found).min()
        assert least > 5e-5 if centred else abs(np.linalg.eigvalsh(found).max() / (6 * 900) - 1) < 0.01
        np.testing.assert_allclose(moments.mean[group], rows.mean(axis=0), rtol=1e-6)


def test_rounding_stays_within_bounds():
    rng = np.random.default_rng(1)
    w = rng.standard_normal((6, 40)).astype(np.float32)
    x = rng.standard_normal((200, 40)).astype(np.float32)
    scale, low, high = weight_scale(w[None], 8, True)
    codes = best_codes(w, np.repeat(scale[0][:, None], 40, 1), low[0], high[0], np.cov(x.T).astype(np.float32))
    assert (codes >= low[0]).all() and (codes <= high[0]).all()
    assert worst_pair(codes) <= PAIR_LIMIT


def test_pair_safety_is_what_sixteen_bits_hold():
    """The certificate against all pairs in numpy, saturating as vpmaddubsw does."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        rows = rng.integers(-90, 91, (3, 12)).astype(np.int8)
        sums = [255 * int(a) + 255 * int(b) for r in rows for a, b in itertools.combinations(r, 2)]
        alone = [255 * int(a) for a in rows.ravel()]
        fits = min(sums + alone) >= -32768 and max(sums + alone) <= 32767
        assert fits == (worst_pair(rows) <= PAIR_LIMIT)


def test_the_worst_pair_is_that_of_all_pairs():
    rng = np.random.default_rng(3)
    for most in (1, 3, 128):
        for depth in (1, 2, 9):
            rows = rng.integers(-most, most, (2, 4, depth)).astype(np.int8)
            pairs = [
                abs(int(a) + int(b))
                for row in rows.reshape(-1, depth)
                for a, b in itertools.combinations([*row, 0, 0], 2)
                if int(a) * int(b) >= 0
            ]
            assert worst_pair(rows) == max(pairs)


def test_scales_and_bounds_keep_every_pair_safe_and_no_more():
    """Of either sign the largest weight has the code it asks for, and all others what it leaves of 128."""
    rng = np.random.default_rng(4)
    rows = np.concatenate([rng.standard_normal((30, 7)), np.abs(rng.standard_normal((3, 7))), np.zeros((1, 7))])[None]
    scale, low, high = weight_scale(rows.astype(np.float32), 8, True)
    for row, step, least, most in zip(rows[0], scale[0], low[0], high[0]):
        for sign, bound in ((1, most), (-1, -least)):
            first, second = np.sort(np.maximum(sign * row, 0))[:-3:-1]
            assert step * 127 * (1 + 1e-6) >= first + second
            at = int(np.argmax(np.maximum(sign * row, 0)))
            code = np.clip(np.rint(first / step), 64, 127)
            assert bound[at] == code and (np.delete(bound, at) == 128 - code).all()


def test_codes_met_as_bytes_are_the_nearest():
    rng = np.random.default_rng(5)
    for bits in (4, 8):
        w = rng.standard_normal((2, 5, 12)).astype(np.float32)
        scale, low, high = weight_scale(w, bits, True)
        for step in (scale, scale / 2):  # half: bounds clip
            codes = nearest_codes(w, step[..., None], low, high)
            assert codes.dtype == np.int8 and np.array_equal(codes, nearest(w, step[..., None], low, high))


def test_a_safe_row_keeps_more_than_seven_bits_where_it_can():
    row = np.array([[[1.0, 0.3, -0.2, 0.25, -0.9, 0.1]]], np.float32)
    scale, _, _ = weight_scale(row, 8, True)
    assert scale[0, 0] < 1 / 64
    codes = np.rint(row / scale[..., None])
    assert worst_pair(codes.astype(np.int8)) <= PAIR_LIMIT


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (-0.01, 6), (-3, 0), (0, 0), (-1e-9, 1e-9), (0, 1e30)])
def test_grids_cover_their_range_and_hold_zero(low, high):
    for signed in (False, True):
        grid = activation_grid(low, high, signed)
        ends = grid.dequantize(np.array([grid.low, grid.high], grid.dtype))
        assert ends[0] <= low + 0.5001 * grid.scale and ends[1] >= high - 0.5001 * grid.scale
        assert grid.dequantize(grid.quantize(np.zeros(1, np.float32)))[0] == 0


def test_equalisation_changes_no_result_and_evens_the_channels():
    spread = np.exp(np.random.default_rng(3).normal(0, 2, 8)).reshape(8, 1, 1, 1)
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,16,16] x) => (float[N,4,a,b] y) <float[8,3,3,3] w1, float[8] b1, float[4,8,1,1] w2>
        { c = Conv(x, w1, b1) r = Relu(c) y = Conv(r, w2) }""",
        w1=np.random.default_rng(4).standard_normal((8, 3, 3, 3)) * spread,
    )
    lifted = onnx_io.load(model)
    changed = clone_model(lifted)
    assert equalize(changed) == 1
    feed = images(1)[0]
    a, b = (ort_session(onnx_io.to_proto(m).SerializeToString()).run(None, feed)[0] for m in (lifted, changed))
    assert np.allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max())

    def ratio(m):
        peaks = np.abs(next(iter(m.graph)).constant(1).array()).reshape(8, -1).max(axis=1)
        return peaks.max() / peaks.min()

    assert ratio(changed) < 0.5 * ratio(lifted)


def test_the_minimum_cut_is_the_cheapest_placement():
    """Against all 2^n assignments, on random costs."""
    units = find_units(onnx_io.load(convnet()), Quantize()).members
    rng = np.random.default_rng(5)
    values = list(dict.fromkeys(v for u in units for v in (*u.inputs, *u.outputs)))
    for _ in range(6):
        seconds = [dict(zip(units, rng.integers(1, 100, len(units)) * 1e-6)) for _ in range(2)]
        moves = [dict(zip(values, rng.integers(1, 40, len(values)) * 1e-6)) for _ in range(2)]
        costs = Costs(*seconds, *moves)
        found = costs.total(set(units), cheapest(set(units), costs))
        every = (
            costs.total(set(units), {u for u, bit in zip(units, bits) if bit})
            for bits in itertools.product((0, 1), repeat=len(units))
        )
        assert found == pytest.approx(min(every), abs=1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("tiny", [0.0, 1e-38, 1e-44])
def test_channels_as_good_as_dead_make_no_numbers_that_are_none(tiny):
    model = convnet()
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "w4", "w5"):
            array = numpy_helper.to_array(tensor).copy()
            array[1] = np.float32(tiny) * np.sign(array[1])
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    options = graphopt.Quantize(speed=False, min_top1=0.0)
    made = graphopt.optimize(model, quantize=options, calibration=images(8))
    assert made.report.stages[0].figures["layers"] == 5
    arrays = [numpy_helper.to_array(tensor) for tensor in made.model.graph.initializer]
    scales = [array for array in arrays if array.dtype.kind == "f"]
    assert len(scales) >= 10 and all(np.isfinite(array).all() and (array > 0).all() for array in scales)


def test_the_bias_of_a_dead_channel_is_kept():
    """Weights of zero leave a channel its bias alone, which is stored in steps of its scale."""
    scale, *_ = weight_scale(np.array([[[0.5, -0.25], [0.0, 0.0], [0.01, 0.02]]], np.float32), 8, False)
    assert scale.tolist() == [[np.float32(0.5 / 127), np.float32(0.02 / 127), np.float32(0.02 / 127)]]
    model = convnet()
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "b1"):
            array = numpy_helper.to_array(tensor).copy()
            array[0] = 0.0 if tensor.name == "w1" else 0.37
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    options = graphopt.Quantize(speed=False, equalize=False, min_top1=0.0)
    made = graphopt.optimize(model, quantize=options, calibration=images(8))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.model.graph.initializer}
    read = next(
        n for n in made.model.graph.node if n.op_type == "DequantizeLinear" and n.input[0].startswith("w1_bias")
    )
    assert stored[read.input[0]][0] * stored[read.input[1]][0] == pytest.approx(0.37, rel=1e-3)
