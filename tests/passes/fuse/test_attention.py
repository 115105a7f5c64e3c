"""Attention is read off its softmax in every spelling, and stays where the one operator would compute another thing."""

import re

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.passes import name_sizes
from graphopt.passes.fuse import fuse_attention
from tests.passes.harness import assert_same, lift, ops, outputs, random_feeds, rewrite

HEAD = """g (float[B,S,16] x, float[B,L,16] m, float[B,1,S,S] bias, float[B,1,1,S] keys, bool[B,1,S,S] allowed)
  => (float[a,b,c] y) <float scale = {{0.35355338}}, float root = {{0.59460354}}, float width = {{2.828427}},
  int64[4] four = {{0, 0, 2, 8}}, int64[3] three = {{0, 0, 16}}, int64[3] flat = {{-1, 0, 8}}, float zero = {{0.0}},
  int64[4] other = {{0, 0, 4, 4}}, int64[4] mixed = {{0, -1, 1, 8}}, int64[2] rows = {{-1, 16}},
  int64[3] shape = {{2, -1, 16}}, float[16,16] w,
  float low = {{-3.4028234663852886e38}}, float less = {{-10000.0}}, float[16,16] u, float[16,16] v,
  float down = {{-inf}}>
{{ {nodes}
}}"""
SPLIT = """hq = MatMul(x, w)
 hk = MatMul(KEYS, u)
 hv = MatMul(KEYS, v)
 rq = Reshape(hq, four)
 rk = Reshape(hk, four)
 rv = Reshape(hv, four)
 q = Transpose<perm = [0, 2, 1, 3]>(rq)
 vs = Transpose<perm = [0, 2, 1, 3]>(rv)
 """
K = "k = Transpose<perm = [0, 2, 3, 1]>(rk)\n "
TWICE = "kh = Transpose<perm = [0, 2, 1, 3]>(rk)\n k = Transpose<perm = [0, 1, 3, 2]>(kh)\n "
JOIN = "o = MatMul(p, vs)\n t = Transpose<perm = [0, 2, 1, 3]>(o)\n y = Reshape(t, three)"
GUARD = "r = Softmax(b)\n n = IsNaN(r)\n p = Where(n, zero, r)\n "
MASK = "mask = Where(allowed, zero, less)\n "
FUSES = {
    "no bias": SPLIT + K + "s = MatMul(q, k)\n c = Mul(s, scale)\n p = Softmax(c)\n " + JOIN,
    "transposed twice": SPLIT + TWICE + "s = MatMul(q, k)\n p = Softmax(s)\n " + JOIN,
    "divided": SPLIT + K + "s = MatMul(q, k)\n c = Div(s, width)\n p = Softmax<axis = 3>(c)\n " + JOIN,
    "bias first": SPLIT + K + "s = MatMul(q, k)\n c = Mul(scale, s)\n b = Add(bias, c)\n p = Softmax(b)\n " + JOIN,
    "both scaled": SPLIT + K + "qs = Mul(q, root)\n ks = Mul(k, root)\n s = MatMul(qs, ks)\n b = Add(s, bias)\n "
                   "p = Softmax(b)\n " + JOIN,
    "guarded": MASK + SPLIT + K + "s = MatMul(q, k)\n b = Add(s, mask)\n " + GUARD + JOIN,
    "joined flat": SPLIT + K + "s = MatMul(q, k)\n p = Softmax(s)\n "
                   + JOIN.replace("y = Reshape(t, three)", "z = Reshape(t, rows)\n y = Reshape(z, shape)"),
}  # fmt: skip
EMPTY_ROWS = MASK.replace("less", "down") + SPLIT + K + "s = MatMul(q, k)\n b = Add(s, mask)\n " + GUARD + JOIN
CACHED = (SPLIT.replace("KEYS", "x").replace("vs = ", "vn = ") + "kn = Transpose<perm = [0, 2, 1, 3]>(rk)\n "
          "kc = Concat<axis = 2>(pk, kn)\n vs = Concat<axis = 2>(pv, vn)\n k = Transpose<perm = [0, 1, 3, 2]>(kc)\n "
          "s = MatMul(q, k)\n c = Mul(s, scale)\n p = Softmax(c)\n " + JOIN)  # fmt: skip
STAYS = {
    "over another axis": SPLIT + K + "s = MatMul(q, k)\n p = Softmax<axis = 2>(s)\n " + JOIN,
    "bias of keys": SPLIT + K + "s = MatMul(q, k)\n b = Add(s, keys)\n p = Softmax(b)\n " + JOIN,
    "a guard with a bias that may be infinite": SPLIT + K + "s = MatMul(q, k)\n b = Add(s, bias)\n " + GUARD + JOIN,
    "other heads": (SPLIT + K + "s = MatMul(q, k)\n p = Softmax(s)\n " + JOIN).replace("Reshape(hv, four)",
                                                                                       "Reshape(hv, other)"),
    "heads in the length": (SPLIT + K + "s = MatMul(q, k)\n p = Softmax(s)\n " + JOIN).replace("four", "mixed"),
    "scores in use": SPLIT + K + "s = MatMul(q, k)\n p = Softmax(s)\n "
        + JOIN.replace("y = Reshape(t, three)", "z = Reshape(t, three)\n i = ReduceMax(s)\n y = Mul(z, i)"),
    "weights as second factor": SPLIT + K + "s = MatMul(q, k)\n p = Softmax(s)\n "
        + JOIN.replace("o = MatMul(p, vs)", "vt = Transpose<perm = [0, 1, 3, 2]>(vs)\n o = MatMul(vt, p)"),
    "scaled by a row": SPLIT + K + "s = MatMul(q, k)\n c = Mul(s, keys)\n p = Softmax(c)\n " + JOIN,
    "quantized": SPLIT + K + "s = MatMul(q, k)\n p = Softmax(s)\n " + JOIN.replace("y = ", "z = ")
        + "\n i = QuantizeLinear(z, scale)\n y = DequantizeLinear(i, scale)",
    "quantized while running, without a cache": SPLIT + K + "s = MatMul(q, k)\n p = Softmax(s)\n "
        + JOIN.replace("y = ", "z = ") + "\n i, is, iz = DynamicQuantizeLinear(z)\n y = DequantizeLinear(i, is, iz)",
}  # fmt: skip
FORMS = {"onnxruntime": (17, "com.microsoft::MultiHeadAttention"), "portable": (23, "Attention")}


def model(nodes, target="onnxruntime", keys="x"):
    made = lift(HEAD.format(nodes=nodes.replace("KEYS", keys)), FORMS[target][0])
    return made


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("name", FUSES)
def test_attention_is_recognised(name, target):
    before = model(FUSES[name], target)
    after, changes = rewrite(before, name_sizes, fuse_attention, target=target)
    assert changes == 1 and FORMS[target][1] in ops(after) and "Softmax" not in ops(after)
    assert_same(before, after, rtol=1e-4, sizes=(2,) if name == "joined flat" else (1, 2, 3))


@pytest.mark.parametrize("target", FORMS)
def test_keys_and_values_may_come_from_elsewhere(target):
    before = model(
        FUSES["both scaled"].replace("b = Add(s, bias)\n p = Softmax(b)", "p = Softmax(s)"), target, keys="m"
    )
    after, changes = rewrite(before, fuse_attention, target=target)
    assert changes == 1
    assert_same(before, after, rtol=1e-4)


@pytest.mark.parametrize("name", STAYS)
def test_other_arithmetic_stays(name):
    before = model(STAYS[name])
    assert rewrite(before, name_sizes, fuse_attention, target="onnxruntime")[1] == 0


def test_portable_models_below_opset_23_keep_their_attention():
    assert rewrite(model(FUSES["no bias"]), fuse_attention)[1] == 0


def test_rows_that_are_masked_altogether_stay_zeros():
    before = model(EMPTY_ROWS)
    after, changes = rewrite(before, name_sizes, fuse_attention, target="onnxruntime")
    assert changes == 1 and "Softmax" not in ops(after) and ops(after).count("Where") == 2
    a, b = onnx_io.to_proto(before), onnx_io.to_proto(after)
    feeds = random_feeds(a, size=3)
    feeds["allowed"][0, 0, 1] = feeds["allowed"][2] = False
    for x, y in zip(outputs(a, feeds), outputs(b, feeds)):
        assert not x[0, 1].any() and not x[2].any()
        np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)


LOWEST = MASK.replace("less", "low") + SPLIT + K + "s = MatMul(q, k)\n b = Add(s, mask)\n p = Softmax(b)\n " + JOIN
FED = SPLIT + K + "s = MatMul(q, k)\n b = Add(s, bias)\n p = Softmax(b)\n " + JOIN


def same_where_masked(before, after, lowest):
    a, b = onnx_io.to_proto(before), onnx_io.to_proto(after)
    feeds = random_feeds(a, size=3)
    feeds["allowed"][:] = [[True, False, True], [False, True, True], [True, True, True]]
    feeds["allowed"][0, 0, 1] = feeds["allowed"][2] = False
    feeds["bias"][0, 0, 1] = feeds["bias"][2] = feeds["bias"][1, 0, 0, :2] = lowest
    for x, y in zip(outputs(a, feeds), outputs(b, feeds)):
        assert x[0, 1].any() and x[2].any()
        np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lowest", [np.finfo(np.float32).min, -1e4, -3e38])
@pytest.mark.parametrize("nodes", [LOWEST, FED])
@pytest.mark.parametrize("target", FORMS)
def test_rows_of_the_lowest_number_are_weighed_evenly(target, nodes, lowest):
    before = model(nodes, target)
    after, changes = rewrite(before, name_sizes, fuse_attention, target=target)
    assert changes == 1 and "Softmax" not in ops(after)
    assert nodes is FED or "Equal" not in ops(after)  # of two constants, others are chosen
    same_where_masked(before, after, lowest)


def test_a_bias_above_the_lowest_number_is_read_as_it_is():
    before = model(FUSES["guarded"].replace(GUARD, "p = Softmax(b)\n "), "portable")
    after, changes = rewrite(before, name_sizes, fuse_attention)
    assert changes == 1 and "Equal" not in ops(after)


def test_layers_share_their_mask():
    second = EMPTY_ROWS.partition("mask = Where(allowed, zero, down)\n ")[2]
    for name in ("hq", "hk", "hv", "rq", "rk", "rv", "q", "vs", "k", "s", "b", "r", "n", "p", "o", "t"):
        second = re.sub(rf"\b{name}\b", f"{name}2", second)
    nodes = EMPTY_ROWS.replace("y = Reshape", "x2 = Reshape") + "\n " + second.replace("MatMul(x,", "MatMul(x2,")
    before = model(nodes)
    after, changes = rewrite(before, name_sizes, fuse_attention, target="onnxruntime")
    assert changes == 2 and ops(after).count("ReduceSum") == 1
    assert_same(before, after, rtol=1e-4)


PASTS = "float[B,2,P,8] pk, float[B,2,P,8] pv"


def cached(nodes, results="float[d,e,f,h] kc, float[i,j,l,n] vs", target="onnxruntime", pasts=PASTS):
    text = HEAD.replace("bool[B,1,S,S] allowed)", f"bool[B,1,S,S] allowed, {pasts})")
    made = lift(text.replace("(float[a,b,c] y)", f"(float[a,b,c] y, {results})").format(nodes=nodes), FORMS[target][0])
    return made


@pytest.mark.parametrize("target", FORMS)
def test_keys_and_values_of_earlier_steps_are_part_of_the_operator(target):
    before = cached(CACHED, target=target)
    after, changes = rewrite(before, name_sizes, fuse_attention, target=target)
    assert changes == 1 and FORMS[target][1] in ops(after) and "Concat" not in ops(after)
    assert_same(before, after, rtol=1e-4)


KEPT = {
    "as many keys as values of earlier steps are not known": (CACHED, {"pasts": PASTS.replace("P,8] pv", "Q,8] pv")}),
    "keys in use": (
        CACHED.replace("y = Reshape(t, three)", "e = ReduceMax(kc)\n z = Reshape(t, three)\n y = Add(z, e)"),
        {},
    ),
    "joined along another axis": (CACHED.replace("Concat<axis = 2>(pv, vn)", "Concat<axis = 3>(pv, vn)"), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_other_caches_stay(name):
    nodes, options = KEPT[name]
    after, _ = rewrite(cached(nodes, **options), name_sizes, fuse_attention, target="onnxruntime")
    assert not any("past" in str(node.attrs) or len(node.outputs) == 3 for node in after.graph.walk())
    assert ops(after).count("Concat") == 2


THIRDS = """hq = MatMul(x, wide48)
 r = Reshape(hq, five)
 t3 = Transpose<perm = [2, 0, 3, 1, 4]>(r)
 """
SPLIT3 = "a, b, c3 = Split<axis = 0>(t3, ones)\n q = Squeeze(a, i0)\n kk = Squeeze(b, i0)\n vs = Squeeze(c3, i0)\n "
GATHER3 = "q = Gather(t3, n0)\n kk = Gather(t3, n1)\n vs = Gather(t3, n2)\n "
REST = "qs = Mul(q, scale)\n k = Transpose<perm = [0, 1, 3, 2]>(kk)\n s = MatMul(qs, k)\n p = Softmax(s)\n " + JOIN
FLAT = (
    SPLIT.replace("MatMul(x, w)", "MatMul(flat2, w)").replace("MatMul(KEYS,", "MatMul(flat2,").replace("four", "fixed")
)
FLAT += K + "s = MatMul(q, k)\n c = Mul(s, scale)\n p = Softmax(c)\n " + JOIN.replace("three", "rows")
PACKED = {
    "thirds of a split, as paddle and timm write": THIRDS + SPLIT3 + REST,
    "thirds that are picked": THIRDS + GATHER3 + REST,
    "flat rows of a known length, as tf2onnx writes": "flat2 = Reshape(x, rows)\n " + FLAT,
}
UNPACKED = {
    "values before keys": THIRDS + SPLIT3.replace("a, b, c3", "a, c3, b") + REST,
    "another order of axes": THIRDS.replace("[2, 0, 3, 1, 4]", "[2, 1, 3, 0, 4]") + SPLIT3 + REST,
}


def packed(nodes, target):
    more = ("float[16,48] wide48, int64[5] five = {{0, 0, 3, 2, 8}}, int64[3] ones = {{1, 1, 1}}, "
            "int64[1] i0 = {{0}}, int64 n0 = {{0}}, int64 n1 = {{1}}, int64 n2 = {{-1}}, "
            "int64[4] fixed = {{-1, 5, 2, 8}}, float zero")  # fmt: skip
    text = HEAD.replace("float zero", more)
    if "flat2" in nodes:
        text = text.replace("float[B,S,16] x", "float[B,5,16] x").replace("(float[a,b,c] y)", "(float[a,b] y)")
    made = lift(text.format(nodes=nodes), FORMS[target][0])
    return made


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize("name", PACKED)
def test_thirds_of_a_product_and_flat_rows_are_read(name, target):
    before = packed(PACKED[name], target)
    after, changes = rewrite(before, name_sizes, fuse_attention, target=target)
    assert changes >= 1 and "Softmax" not in ops(after)
    assert_same(before, after, rtol=1e-4)


@pytest.mark.parametrize("name", UNPACKED)
def test_other_thirds_stay(name):
    before = packed(UNPACKED[name], "onnxruntime")
    after, changes = rewrite(before, name_sizes, fuse_attention, target="onnxruntime")
    assert changes == 0 and "Softmax" in ops(after)


def half(nodes, **more):
    numbers = {"scale": 0.35355338, "root": 0.59460354, "width": 2.828427, "zero": 0, "low": -65504, "less": -3e4}
    weights = {key: np.array([number]) for key, number in {**numbers, "down": -np.inf}.items()}
    text = HEAD.replace("float[", "float16[").replace("float ", "float16 ")
    text = re.sub(r"float16 (\w+) = \{\{[^}]*\}\}", r"float16[1] \1", text)
    text = text.replace("float16[16,16] u", "float16[1,1,3,3] fixed, float16[16,16] u")
    if "fixed)" in nodes:
        text = text.replace("[B,S,16] x", "[B,3,16] x")
    return lift(text.format(nodes=nodes.replace("KEYS", "x")), 23, **weights, **more)


FIXED = FED.replace("KEYS", "x").replace("Add(s, bias)", "Add(s, fixed)")
CAUSAL = np.where(np.tril(np.ones((1, 1, 3, 3))), 0, -65504)


@pytest.mark.parametrize("name", ["no bias", "transposed twice", "causal"])
@pytest.mark.parametrize("target", FORMS)
def test_half_precision_is_for_the_operator_of_onnx(name, target):
    before = half({**FUSES, "causal": FIXED}[name], fixed=CAUSAL)
    after, changes = rewrite(before, name_sizes, fuse_attention, target=target)
    assert changes == 1 and "Attention" in ops(after)
    assert_same(before, after, rtol=2e-2, sizes=(3,) if name == "causal" else (1, 3))


@pytest.mark.parametrize("nodes", [LOWEST, LOWEST.replace(", low)", ", less)"), FED, FIXED])
def test_half_precision_keeps_rows_that_may_be_masked_altogether(nodes):
    before = half(nodes, fixed=np.full((1, 1, 3, 3), -3e4))
    after, changes = rewrite(before, name_sizes, fuse_attention)
    assert changes == 0 and "Softmax" in ops(after)
