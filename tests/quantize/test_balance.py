"""Channels balanced between layers: the model computes what it did, its channels are alike, its integers are closer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.calibration import stream
from graphopt.compress.stages import stage_context
from graphopt.ir import Model, clone_model
from graphopt.measure import ort_session
from graphopt.passes.quantize.candidates.balance import balance, channel_sizes
from tests.quantize.nets import convnet, images, parse

FEW = {"weight_type": "int4", "activation_type": "uint4"}


def uneven(seed: int = 0, top: float = 3.0) -> onnx.ModelProto:
    """Expansion, depthwise, projection with a residual Add, clamps at 0 and `top`, a classifier; uneven channels."""
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.uniform(-2.5, 0.0, 16))[:, None, None, None]
    return parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,16,16] x) => (float[N,10] y)
        <float[16,3,3,3] w1, float[16] b1, float[16,1,3,3] w2, float[16] b2, float[16,16,1,1] w3, float[16] b3,
         float[16,16,1,1] w4, float[16] b4, float[10,16] w5, float[10] b5, float low, float high>
        {
            c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
            r1 = Clip(c1, low, high)
            c2 = Conv<pads=[1,1,1,1], group=16>(r1, w2, b2)
            r2 = Clip(c2, low, high)
            c3 = Conv(r2, w3, b3)
            c4 = Conv(c3, w4, b4)
            a = Add(c4, c3)
            r4 = Relu(a)
            g = GlobalAveragePool(r4)
            f = Flatten(g)
            y = Gemm<transB=1>(f, w5, b5)
        }""",
        seed,
        w1=rng.standard_normal((16, 3, 3, 3)) * spread / 3,
        b1=np.zeros(16),
        w2=rng.standard_normal((16, 1, 3, 3)) / 2,
        low=np.float32(0),
        high=np.float32(top),
    )


def balanced(proto: onnx.ModelProto, **options: object) -> tuple[Model, Model, int]:
    """The model before and after, and how many groups were scaled."""
    model = onnx_io.load(proto)
    copy = clone_model(model)
    quantize = graphopt.Quantize("static", **{**FEW, **options})
    return model, copy, balance(copy, quantize, stage_context(copy, images(16)))


def results(model: object, seed: int) -> np.ndarray:
    session = ort_session(model)
    return np.concatenate([session.run(None, feed)[0] for feed in images(16, seed)])


@pytest.mark.parametrize("seed", range(4))
def test_a_balanced_model_computes_what_it_did(seed):
    model, copy, count = balanced(uneven(seed))
    assert count == 3  # behind each clamp, and the residual up to the classifier
    before, after = (results(m, 0) for m in (model, copy))
    assert np.abs(before - after).max() < 1e-5 * np.abs(before).max()


def test_channels_become_alike():
    model, copy, _ = balanced(uneven(top=100.0))
    spreads = []
    for m in (model, copy):
        values = [node.inputs[0] for node in m.graph if node.op == "Conv"][1:3]
        sizes = channel_sizes(m, values, images(16))
        spreads.append([sizes[v].deviation.max() / sizes[v].deviation.min() for v in values])
    (first, second), (first_after, second_after) = spreads
    assert first_after < 1.01 < 3 < first  # read by a depthwise layer alone
    assert second_after < 0.6 * second


def test_clamps_cut_what_they_cut_before():
    model, copy, _ = balanced(uneven(top=1.0))
    clip = next(node for node in copy.graph if node.op == "Clip")
    assert (results(onnx_io.load(uneven(top=9.0)), 0) != results(model, 0)).any(), "nothing is cut"
    assert clip.constant(2).array() != 1.0
    before, after = (results(m, 0) for m in (model, copy))
    assert np.abs(before - after).max() < 1e-5 * np.abs(before).max()


@pytest.mark.parametrize(("body", "count"), [
    ("c1 = Conv(x, w1, b1)  s = Sigmoid(c1)  y = Conv(s, w2, b2)", 0),
    ("c1 = Conv(x, w1, b1)  l = LeakyRelu(c1)  y = Conv(l, w2, b2)", 0),
    ("c1 = Conv(x, w1, b1)  r = Relu(c1)  m = Mul(r, r)  c2 = Conv(r, w2, b2)  y = Add(c2, m)", 0),
    ("c1 = Conv(x, w1, b1)  r = Relu(c1)  c2 = Conv(r, w2, b2)  y = Add(c2, r)", 0),
    ("c1 = Conv(x, w1, b1)  c = Clip(c1, one, one)  y = Conv(c, w2, b2)", 0),
    ("r = Relu(x)  c1 = Conv(r, w1, b1)  y = Conv(c1, w2, b2)", 1),
])  # fmt: skip
def test_only_values_between_layers_are_scaled(body, count):
    proto = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,8,8] x) => (float[N,3,8,8] y)
        <float[3,3,1,1] w1, float[3] b1, float[3,3,1,1] w2, float[3] b2, float one> {{ {body} }}""",
        w1=np.diag([1.0, 3.0, 9.0]).reshape(3, 3, 1, 1),
    )
    model = onnx_io.load(proto)
    copy = clone_model(model)
    feeds = images(8, size=8)
    assert balance(copy, graphopt.Quantize("static", **FEW), stage_context(copy, feeds)) == count
    before, after = (ort_session(m).run(None, feeds[0])[0] for m in (model, copy))
    assert np.allclose(before, after, rtol=0, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("options", [
    {"weight_type": "int8", "activation_type": "uint8"}, {"rounding": False}, {"equalize": False}
])  # fmt: skip
def test_nothing_is_balanced_unless_layers_are_refitted_to_few_bits(options):
    assert balanced(convnet(), **options)[2] == 0


def test_integers_are_closer_where_channels_are_uneven():
    proto, noise = uneven(top=6.0), []
    for equalize in (True, False):
        quantize = graphopt.Quantize("static", **FEW, equalize=equalize, min_sqnr=-np.inf, min_top1=0)
        result = graphopt.optimize(proto, calibration=images(32), quantize=quantize, validate=False)
        wrong = results(result.model.SerializeToString(), 9) - results(proto.SerializeToString(), 9)
        noise.append(float(np.square(wrong).sum()))
    assert noise[0] < 0.8 * noise[1]


NORMS = {
    "LayerNormalization": "n = LayerNormalization(x, g, b)",
    "SimplifiedLayerNormalization": "n = SimplifiedLayerNormalization(x, g)",
    "SkipLayerNormalization": "n = com.microsoft.SkipLayerNormalization(x, x, g, b)",
    "Mul": "n = Mul(g, x)",
}


def normed(body: str, **weights: np.ndarray) -> onnx.ModelProto:
    """Products behind a norm with uneven gains."""
    rng = np.random.default_rng(0)
    made = {"g": np.exp(rng.uniform(-2, 2, 64)), "b": rng.standard_normal(64)}
    made |= {name: rng.standard_normal((64, 32)) / 8 for name in "wv"} | weights
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        net (float[N,8,64] x) => (float[N,8,M] y) {{ {body} }}"""
    )
    read = {name for node in model.graph.node for name in node.input}
    arrays = {name: np.asarray(array, np.float32) for name, array in made.items() if name in read}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def rows(count: int = 4, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 8, 64)).astype(np.float32)} for _ in range(count)]


def scaled(proto: onnx.ModelProto, **options: object) -> tuple[Model, Model, int]:
    """The model before and after, and how many norms were scaled."""
    model = onnx_io.load(proto)
    copy = clone_model(model)
    quantize = graphopt.Quantize("weights", **{"weight_type": "int4", **options})
    return model, copy, balance(copy, quantize, stage_context(copy, rows()))


BOTH = "p = MatMul(n, w) q = MatMul(n, v) y = Add(p, q)"


@pytest.mark.parametrize("norm", NORMS)
def test_inputs_behind_a_norm_are_scaled_by_their_sizes_and_gains_take_the_factors_back(norm):
    model, copy, count = scaled(normed(f"{NORMS[norm]} {BOTH}"))
    assert count == 1
    before, after = (ort_session(m).run(None, rows(1, 5)[0])[0] for m in (model, copy))
    assert np.abs(before - after).max() < 1e-5 * np.abs(before).max()
    found = []
    for m in (model, copy):
        products = [node for node in m.graph if node.op == "MatMul"]
        source = products[0].inputs[0].producer
        found.append([source.constant(0 if norm == "Mul" else 2 if "Skip" in norm else 1).array()])
        found[-1] += [product.constant(1).array() for product in products]
    gains, first, second = (b / a for a, b in zip(*found))
    assert np.allclose(first, second, rtol=1e-5) and np.allclose(first, 1 / gains[:, None], rtol=1e-5)
    source = next(node for node in model.graph if node.op == "MatMul").inputs[0]
    sizes = np.mean([np.abs(arrays[source]).mean(axis=(0, 1)) for arrays in stream(model, [source], rows(3))], axis=0)
    least = np.maximum(sizes, 0.03 * sizes.max()) ** 0.2
    assert np.allclose(first[:, 0], least / np.exp(np.log(least).mean()), rtol=1e-4)


@pytest.mark.parametrize("body", [
    "n = LayerNormalization(x, g, b) p = MatMul(n, w) q = MatMul(n, w) y = Add(p, q)",  # a weight with two readers
    "n = LayerNormalization(x, g, b) p = MatMul(n, w) r = ReduceSum(n) y = Add(p, r)",  # another reader
    "n = Mul(x, x) y = MatMul(n, w)",  # no gains
    "s = ReduceSum(x) n = LayerNormalization(x, s, b) y = MatMul(n, w)",  # gains that are computed
    "n = Softmax(x) y = MatMul(n, w)",
])  # fmt: skip
def test_norms_with_other_readers_or_gains_stay_as_they_are(body):
    assert scaled(normed(body))[2] == 0


@pytest.mark.parametrize(("factor", "count"), [(1, 0), (2, 1)])
def test_a_head_tied_to_a_table_by_content_stays_one_with_it(factor, count):
    table = np.random.default_rng(1).standard_normal((256, 64))
    body = """n = LayerNormalization(x, g, b) p = MatMul(n, w) i = ArgMax<axis=2, keepdims=0>(x) r = Gather(t, i)
        s = ReduceMean<axes=[2]>(r) y = Add(p, s)"""
    assert scaled(normed(body, t=table, w=factor * table.T))[2] == count


@pytest.mark.parametrize("options", [{"weight_type": "int8"}, {"equalize": False}, {"op_types_to_quantize": ("Gemm",)}])
def test_norms_stay_as_they_are_unless_weights_behind_are_stored_in_few_bits(options):
    assert scaled(normed(f"n = LayerNormalization(x, g, b) {BOTH}"), **options)[2] == 0


def test_made_up_inputs_scale_no_norm():
    model = onnx_io.load(normed(f"n = LayerNormalization(x, g, b) {BOTH}"))
    assert balance(model, graphopt.Quantize("weights", weight_type="int4"), stage_context(model, None)) == 0


def test_stored_weights_err_less_behind_scaled_norms():
    proto, noise = normed(f"n = LayerNormalization(x, g, b) {BOTH}"), []
    for equalize in (True, False):
        quantize = graphopt.Quantize("weights", weight_type="int4", equalize=equalize, min_sqnr=-np.inf, min_top1=0)
        result = graphopt.optimize(proto, calibration=rows(64), quantize=quantize, target="onnxruntime", validate=False)
        sessions, wrong = [ort_session(m.SerializeToString()) for m in (proto, result.model)], 0.0
        for feed in rows(32, 9):
            expected, found = (session.run(None, feed)[0] for session in sessions)
            wrong += float(np.square(found - expected).sum())
        noise.append(wrong)
    assert noise[0] < 0.97 * noise[1]
