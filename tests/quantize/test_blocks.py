"""Weights of 4 bits: the grids of their blocks, how they are packed, and files that hold them."""

import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import onnx_io
from graphopt.compress.layers import moments as moments_of_layers
from graphopt.compress.layers.linear import Linear
from graphopt.compress.layers.moments import InputMoments, gather
from graphopt.errors import Declined, OptionError
from graphopt.ir import Constant, Node
from graphopt.measure import ort_session
from graphopt.passes.quantize import stage
from graphopt.passes.quantize.emit.packed import pack
from graphopt.passes.quantize.numerics import blocks
from graphopt.passes.quantize.numerics import rounding as one_by_one
from graphopt.passes.quantize.numerics import solve as numerics
from graphopt.passes.quantize.numerics.blocks import best_grid, fitted_scale, in_blocks, plain_scale, spread
from graphopt.passes.quantize.numerics.rounding import nearest, objective
from graphopt.passes.quantize.numerics.solve import solve
from tests.quantize.nets import parse

DEPTH, WIDTH = 104, 40  # three blocks of 32 and a partial one
RNG = np.random.default_rng(0)
FEEDS = [{"x": RNG.standard_normal((6, DEPTH)).astype(np.float32)} for _ in range(6)]
TEXT = f"""<ir_version: 8, opset_import: ["" : 17]> net (float[N,{DEPTH}] x) => (float[N,{WIDTH}] y)
<float[{DEPTH},{DEPTH}] w1, float[{DEPTH}] b1, float[{DEPTH},{DEPTH}] w2, float[{DEPTH}] b2, float[{WIDTH},{DEPTH}] w3,
 float[{WIDTH}] b3>
{{
    h = MatMul(x, w1)
    a = Add(h, b1)
    t = Tanh(a)
    g = Gemm(t, w2, b2)
    u = Tanh(g)
    y = Gemm<transB=1>(u, w3, b3)
}}"""


def stored(model=None, target="portable", calibration=FEEDS, **options):
    given = parse(TEXT) if model is None else model
    settings = {"mode": "weights", "weight_type": "int4", "speed": False, "min_sqnr": 0.0, "min_top1": 0.0, **options}
    made = graphopt.optimize(given, quantize=graphopt.Quantize(**settings), calibration=calibration, target=target)
    sessions = [ort_session(m.SerializeToString()) for m in (given, made.model)]
    a, b = (np.concatenate([s.run(None, f)[0] for f in FEEDS]) for s in sessions)
    return made, 10 * np.log10((a**2).sum() / max(((a - b) ** 2).sum(), 1e-30))


def weight_bytes(model):
    """Bytes of all constants but biases."""
    weights = [t for t in model.graph.initializer if len(t.dims) > 1]
    return sum(len(t.raw_data or numpy_helper.to_array(t).tobytes()) for t in weights)


@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
def test_blocks_are_packed_and_the_last_may_be_partial(block, target):
    made, noise = stored(target=target, block_size=block)
    weights, blocks = DEPTH * (2 * DEPTH + WIDTH), -(-DEPTH // block)
    scales = 4 * blocks * (2 * DEPTH + WIDTH)
    padding = min(blocks * block, 128) / DEPTH if target == "onnxruntime" else 1.0
    assert weight_bytes(made.model) <= weights * padding / 2 + scales * (1 + 1 / 4)  # with zero points
    assert {row[3] for row in made.report.stages[0].rows} == {4} and noise > 20
    ops = [node.op_type for node in made.model.graph.node]
    if target == "portable":
        kinds = {t.data_type for t in made.model.graph.initializer if len(t.dims) > 1}
        assert kinds == {TensorProto.INT4, TensorProto.FLOAT} and made.model.opset_import[0].version == 21
        onnx.checker.check_model(made.model, full_check=True)
    else:
        assert ops.count("MatMulNBits") == 3 and "DequantizeLinear" not in ops
        assert made.model.opset_import[0].version == 17  # onnxruntime's own products need no other


@pytest.mark.parametrize("depth", [96, DEPTH])
def test_scales_refitted_to_codes_cost_least(depth):
    rng = np.random.default_rng(1)
    rows, x = rng.standard_normal((7, depth)).astype(np.float32), rng.standard_normal((400, depth)).astype(np.float32)
    covariance = (x.T @ x / len(x) + 0.5).astype(np.float32)  # inputs of different blocks go together
    scale, zero = plain_scale(rows, 3, 32), rng.integers(-2, 2, (7, -(-depth // 32)))
    full, origin = spread(scale, depth, 32), spread(zero, depth, 32).astype(np.float32)
    steps = nearest(rows + origin * full, full, np.float32(-4), np.float32(3)) - origin
    steps[2, :32] = 0  # says nothing of its scale
    found = fitted_scale(rows, steps, scale, covariance, 32)
    assert found.dtype == np.float32 and found[2, 0] == scale[2, 0]
    for row, step, one in zip(rows, steps, found):
        parts = np.stack([np.where(np.arange(depth) // 32 == b, step, 0) for b in range(len(one))]).astype(np.float64)
        kept = parts.any(axis=1)
        best = np.linalg.lstsq(parts[kept] @ covariance @ parts[kept].T, parts[kept] @ covariance @ row)[0]
        np.testing.assert_allclose(one[kept], best, rtol=2e-3)
    assert objective(rows - steps * spread(found, depth, 32), covariance) < objective(rows - steps * full, covariance)


def test_finer_blocks_are_closer_and_data_help():
    by_block = [stored(block_size=block)[1] for block in (16, 64, 256)]
    assert by_block == sorted(by_block, reverse=True)
    assert stored()[1] > stored(rounding=False, correct_bias=False)[1] + 1 > 16


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
def test_both_spellings_hold_the_same_weights(target):
    made, _ = stored(target=target)
    spelled = {}
    constants = {t.name: t for t in made.model.graph.initializer}
    for node in made.model.graph.node:
        if node.op_type == "MatMulNBits":
            attrs = {a.name: a.i for a in node.attribute}
            codes, scale = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
            zero = constants.get(node.input[3]) if len(node.input) > 3 else None
            halves = np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:2], -1).astype(np.float32)
            middle = np.full((len(codes), -(-codes.shape[1] // 2)), 0x88)
            packed = middle if zero is None else numpy_helper.to_array(zero)
            zeros = np.stack([packed & 15, packed >> 4], -1).reshape(len(codes), -1)[:, : codes.shape[1], None]
            spelled[node.input[1]] = ((halves - zeros) * scale[..., None]).reshape(len(codes), -1)[:, : attrs["K"]]
        elif node.op_type == "DequantizeLinear":
            session = ort_session(helper.make_model(
                helper.make_graph([node], "g", [], [helper.make_tensor_value_info(node.output[0], 1, None)],
                                  [constants[name] for name in node.input]),
                opset_imports=[helper.make_opsetid("", 21)], ir_version=10,
            ).SerializeToString())  # fmt: skip
            weight = session.run(None, {})[0]
            spelled[node.input[0]] = weight if len(weight) != DEPTH or "w3" in node.input[0] else weight.T
    given = {t.name: numpy_helper.to_array(t) for t in parse(TEXT).graph.initializer}
    assert len(spelled) == 3
    for name, found in spelled.items():
        weight = given[name.split("_")[0]]
        weight = weight if weight.shape == found.shape and "w3" in name else weight.T
        assert np.abs(found - weight).max() < 0.5 * np.abs(weight).max()
        assert ((found - weight) ** 2).mean() < 0.02 * (weight**2).mean()


def test_blocks_of_eight_bits_are_products_of_onnxruntime_at_any_operator_set():
    made, noise = stored(target="onnxruntime", weight_type="int8", block_size=64)
    products = [{a.name: a.i for a in n.attribute} for n in made.model.graph.node if n.op_type == "MatMulNBits"]
    sizes = [(a["bits"], a["block_size"], a["accuracy_level"]) for a in products]
    assert sizes == [(8, 64, 4)] * 3 and noise > 35 and made.model.opset_import[0].version == 17


@pytest.mark.parametrize(("kind", "stored_in", "least"), [("int3", 4, 12), ("int2", 2, 5)])
def test_fewer_bits_are_for_onnxruntime(kind, stored_in, least):
    made, noise = stored(target="onnxruntime", weight_type=kind, max_kl=100.0)
    products = [node for node in made.model.graph.node if node.op_type == "MatMulNBits"]
    attrs = [{a.name: a.i for a in node.attribute} for node in products]
    assert len(products) == 3 and {a["bits"] for a in attrs} == {stored_in}
    constants = {t.name: numpy_helper.to_array(t) for t in made.model.graph.initializer}
    middle, reach = 1 << (stored_in - 1), 1 << (int(kind[-1]) - 1)
    for node in products:
        codes = constants[node.input[1]]
        shifts = np.arange(0, 8, stored_in)
        held = (codes[..., None] >> shifts & (1 << stored_in) - 1).astype(int) - middle
        assert codes.size == len(codes) * -(-DEPTH // 32) * 32 * stored_in // 8
        assert held.min() == -reach and held.max() == reach - 1
    assert {row[3] for row in made.report.stages[0].rows} == {int(kind[-1])} and noise > least
    assert ("in codes of 4 bits" in made.report.stages[0].summary) == (kind == "int3")
    with pytest.raises(OptionError, match=f"{kind} of mode weights is for target onnxruntime.*not for portable"):
        stored(weight_type=kind)


@pytest.mark.parametrize("shape", ["normal", "skewed", "outlier", "zero"])
def test_the_grid_of_a_block_is_nearly_the_best_by_brute_force(shape):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((6, 32)).astype(np.float32)
    rows = {"normal": rows, "skewed": np.exp(rows), "outlier": rows * np.where(rng.random(rows.shape) < 0.03, 9, 1),
            "zero": rows * 0}[shape].astype(np.float32)  # fmt: skip
    cost = rng.uniform(0.5, 2.0, 32)
    grid = best_grid(rows, cost, 4, 32)
    best = np.full(len(rows), np.inf)
    span = np.maximum(rows.max(1), 0) - np.minimum(rows.min(1), 0)
    for share in np.linspace(0.3, 1.2, 91):
        for zero in range(-8, 8):
            scale = np.maximum(span * share / 15, 1e-12)[:, None]
            error = rows - (np.clip(np.rint(rows / scale) + zero, -8, 7) - zero) * scale
            best = np.minimum(best, (error**2 * cost).sum(1))
    plain = plain_scale(rows, 4, 32)
    wrong = rows - nearest(rows, plain, -8, 7) * plain
    assert grid.cost <= 1.12 * best.sum() + 1e-9 and grid.cost <= (wrong**2 * cost).sum()


@pytest.mark.parametrize("law", ["normal", "laplace", "uniform", "skewed"])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_sample_of_rows_finds_the_kind_of_grid_that_all_rows_find(law, kind, monkeypatch):
    rng = np.random.default_rng(3)
    weight = rng.gamma(2, size=(1100, 2048)) if law == "skewed" else getattr(rng, law)(size=(1100, 2048))
    rows = weight.astype(kind).T  # output channels lie side by side, as in the weight of a MatMul
    wide = np.ascontiguousarray(rows, np.float32)
    for bits in (4, 2):
        codes, expected = (np.empty(rows.shape, np.int8) for _ in range(2))
        grid = blocks.best_grid(rows, None, bits, 32, codes)
        with monkeypatch.context() as patch:
            patch.setattr(blocks, "_needs_zeros", lambda *given: None)
            every = blocks.best_grid(wide, np.ones(1100), bits, 32, expected)
        assert grid.cost == every.cost and (grid.zero is None) == (every.zero is None)
        np.testing.assert_array_equal(grid.scale, every.scale)
        np.testing.assert_array_equal(codes, expected)
        zero = 0 if grid.zero is None else spread(grid.zero, 1100, 32)
        wrong = wide - (codes.astype(np.float32) - zero) * spread(grid.scale, 1100, 32)
        assert grid.cost == pytest.approx(float((wrong**2).sum(dtype=np.float64)), rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_codes_are_never_worse_than_the_nearest(seed):
    linear, moments = together(seed)
    for rounding in (True, False):
        options = graphopt.Quantize("weights", weight_type="int4", rounding=rounding)
        found = solve(linear, moments, options, False, block=32)
        assert found.after <= found.before * (1 + 1e-6)


def together(seed, rank=5, width=WIDTH):
    """A product with a constant weight, and moments of inputs that go together."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((DEPTH, rank)) @ rng.standard_normal((rank, DEPTH)) + 0.05 * np.eye(DEPTH)
    weight = Constant.of(rng.standard_normal((DEPTH, width)).astype(np.float32))
    linear = Linear(Node("MatMul", (None, None)), weight, None, 1, 1)
    moments = InputMoments.empty(linear)
    moments.add((rng.standard_normal((400, DEPTH)) @ mix)[None].astype(np.float32))
    return linear, moments


@pytest.mark.parametrize("seed", range(4))
def test_one_large_input_does_not_drown_the_others(seed):
    options, others = graphopt.Quantize("weights", weight_type="int3"), np.arange(DEPTH) != 7

    def lost(deviation):
        """The error by the other inputs, where input 7 has this deviation, relative to theirs, and goes alone."""
        linear, moments = together(seed)
        among = moments.covariance_of(0, centred=False)[np.ix_(others, others)]
        moments.second[:, 7] = moments.second[:, :, 7] = moments.first[:, 7] = moments.centre[:] = 0
        moments.second[0, 7, 7] = moments.count * np.trace(among) / len(among) * deviation**2
        codes = solve(linear, moments, options, False, block=32).codes
        zero = 0 if codes.zero is None else spread(codes.zero[0], DEPTH, 32)
        error = linear.rows()[0] - (codes.rows[0] - zero) * spread(codes.scale[0], DEPTH, 32)
        return objective(error[:, others], among)

    assert lost(30.0) < 3 * lost(1.0)  # 5.6 to 8.2 times where what is added follows the mean variance


def test_wide_layers_are_gathered_apart_and_hold_no_sums_beside_their_covariance(monkeypatch):
    """Rounding 5,760 inputs takes six matrices of 0.1 GB: others are gathered later, and sums end with their use."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((6, 6)).astype(np.float32) for name in ("q", "k", "p")}
    model = onnx_io.load(
        parse(
            """<ir_version: 8, opset_import: ["" : 17]> net (float[N,6] x) => (float[N,6] z)
            <float[6,6] q, float[6,6] k, float[6,6] p> { a = MatMul(x, q) b = MatMul(a, k) z = MatMul(b, p) }""",
            **weights,
        )
    )
    layers = [(n.inputs[0], Linear(n, n.inputs[1].constant, None, 1, 1)) for n in model.graph if n.op == "MatMul"]
    seen, passes = rng.standard_normal((9, 6)).astype(np.float32), []

    def data():
        passes.append(1)
        return [({"x": seen}, 1)]

    size = 4 * 6 * 6
    for together, expected in ((1 << 30, 1), (7 * size, 2), (6 * size, 3)):
        monkeypatch.setattr(moments_of_layers, "TOGETHER", together)
        monkeypatch.setattr(moments_of_layers, "BUDGET", 4 * size)
        passes.clear()
        for (_, moments), expected_input in zip(
            gather(model, layers, data, seed=0), (seen, seen @ weights["q"], seen @ weights["q"] @ weights["k"])
        ):
            covariance = moments.covariance_of(0, centred=True)
            assert np.shares_memory(covariance, moments.second)
            wanted = np.cov(expected_input.astype(np.float64).T, bias=True)
            np.testing.assert_allclose(covariance, wanted, rtol=1e-3, atol=1e-3)
        assert len(passes) == expected


def test_moments_count_feeds_as_often_as_told_and_products_of_one_input_share_them():
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((6, 4)).astype(np.float32) for name in ("q", "k")}
    model = onnx_io.load(
        parse(
            """<ir_version: 8, opset_import: ["" : 17]> net (float[N,6] x) => (float[N,4] a, float[N,4] b)
            <float[6,4] q, float[6,4] k> { r = Relu(x) a = MatMul(r, q) b = MatMul(r, k) }""",
            **weights,
        )
    )
    nodes = [node for node in model.graph if node.op == "MatMul"]
    layers = [(node.inputs[0], Linear(node, node.inputs[1].constant, None, 1, 1)) for node in nodes]
    some, others = (rng.standard_normal((rows, 6)).astype(np.float32) for rows in (5, 8))
    found = list(gather(model, layers, lambda: [({"x": some}, 3), ({"x": others}, 1)], seed=0))
    assert [linear.node for linear, _ in found] == nodes and found[0][1] is found[1][1]
    seen = np.maximum(np.concatenate([some, some, some, others]), 0).astype(np.float64)
    moments = found[0][1]
    assert moments.count == len(seen)
    np.testing.assert_allclose(moments.mean[0], seen.mean(axis=0), rtol=1e-5)
    for centred, about in ((True, seen - seen.mean(axis=0)), (False, seen)):
        expected = about.T @ about / len(seen)
        np.testing.assert_allclose(moments.covariance_of(0, centred), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_large_weight_is_polished_in_parts(seed, monkeypatch):
    linear, moments = together(seed)
    options = graphopt.Quantize("weights", weight_type="int4")
    monkeypatch.setattr(numerics, "POLISHED_BLOCKS", 0)
    rough = solve(linear, moments, options, False, block=32).after
    monkeypatch.setattr(numerics, "POLISHED_BLOCKS", 2e10)
    whole = solve(linear, moments, options, False, block=32).after
    monkeypatch.setattr(one_by_one, "AT_ONCE", 7 * DEPTH)  # the last of WIDTH rows are fewer
    assert solve(linear, moments, options, False, block=32).after == pytest.approx(whole, rel=0.02)
    assert whole < 0.95 * rough


def test_rounding_a_large_weight_takes_little_memory_beside_it(monkeypatch):
    """A head of 262,144 words took a dozen times its 0.7 GB."""
    linear, moments = together(0, width=20_000)
    monkeypatch.setattr(one_by_one, "AT_ONCE", 500 * DEPTH)
    monkeypatch.setattr(blocks, "CHUNK", 500 * DEPTH)
    options = graphopt.Quantize("weights", weight_type="int4")
    tracemalloc.start()
    try:
        solve(linear, moments, options, False, block=32, is_read=True)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * linear.weight.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("seed", range(4))
def test_the_head_that_is_a_table_is_rounded_for_its_products_first(seed):
    linear, moments = together(seed)
    options, rows = graphopt.Quantize("weights", weight_type="int4"), linear.rows()[0]

    def lost(found):
        codes, zero = found.codes, found.codes.zero
        steps = codes.rows[0] - (0 if zero is None else spread(zero[0], DEPTH, 32))
        return found.after, float(((rows - steps * spread(codes.scale[0], DEPTH, 32)) ** 2).sum())

    head, tied = (lost(solve(linear, moments, options, False, block=32, is_read=read)) for read in (False, True))
    grid = best_grid(rows, None, 4, 32)
    assert head[0] < tied[0] < 1.6 * head[0]  # the products' error
    assert grid.cost < tied[1] < head[1]  # the rows' own


def test_partial_blocks_and_packing():
    rows = np.arange(10, dtype=np.float32).reshape(2, 5)
    assert in_blocks(rows, 4).shape == (2, 2, 4) and in_blocks(rows, 4)[1, 1].tolist() == [9, 0, 0, 0]
    assert spread(np.array([[1, 2]]), 5, 4).tolist() == [[1, 1, 1, 1, 2]]
    assert pack(np.array([[1, 2, 3]], np.uint8), 4).tolist() == [[0x21, 0x83]]
    assert pack(np.array([[1, 2, 3]], np.uint8), 2).tolist() == [[0b10111001]]


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
def test_where_bits_cannot_be_packed_the_reason_is_told(target, monkeypatch):
    def refuse(model, context, needed=13):
        if model.opset < needed:
            raise Declined(f"left float: opset {model.opset} cannot be raised: node 'y': an adapter is missing")
        return model

    monkeypatch.setattr(stage, "upgraded", refuse)
    made, noise = stored(target=target)
    if target == "onnxruntime":  # has packed products at any operator set
        assert made.model.opset_import[0].version == 17 and noise > 15
        assert [n.op_type for n in made.model.graph.node].count("MatMulNBits") == 3
    else:
        reason = made.report.stages[0].summary
        assert not made.report.stages[0].changed and made.report.status == "equal"
        assert "an adapter is missing (weights of 4 bits, and blocks, need opset 21)" in reason


def test_older_operator_sets_are_raised():
    made, _ = stored(parse(TEXT.replace('"" : 17', '"" : 13')))
    assert made.model.opset_import[0].version == 21


def test_operators_without_a_kernel_at_the_opset_of_blocks_keep_theirs():
    """onnxruntime runs LeakyRelu of float64 up to opset 18, by the function that defines it."""
    double = TEXT.replace("t = Tanh(a)", "d = Cast<to = 11>(a)\n k = LeakyRelu(d)\n t = Cast<to = 1>(k)")
    made, _ = stored(parse(double))
    stage_report = made.report.stages[0]
    assert made.report.status == "equal" and not stage_report.changed
    assert "opset 17 cannot be raised: onnxruntime has no LeakyRelu of double at opset 21" in stage_report.summary
    assert made.model.opset_import[0].version == 17


def test_dynamic_products_refuse_four_bits():
    with pytest.raises(OptionError, match="int4 is for modes weights and static: in mode dynamic"):
        graphopt.Quantize("dynamic", weight_type="int4")
    for size in (8, 24, 512):
        with pytest.raises(OptionError, match="from 16 to 256"):
            graphopt.Quantize("weights", block_size=size)
