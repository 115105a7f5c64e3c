"""Attention with a cache becomes one operator: grouped heads, masks, padded rows, every spelling of both exporters."""

import numpy as np
import pytest

from graphopt import onnx_io, optimize
from graphopt.ir import TensorType
from graphopt.ops import remainder, total
from graphopt.passes import name_sizes
from graphopt.passes.convert import raise_opset
from graphopt.passes.fuse import fuse_attention, fuse_operators
from graphopt.passes.layout import join_shape_changes
from tests.passes.harness import assert_same, body, lift, ops, outputs, random_feeds, rewrite

HEAD = """g (
    float[B,S,32] x, float[B,2,P,8] pk, float[B,2,P,8] pv, bool[B,1,S,T] allowed, float[B,S,4] f, float[B,1,S,T] bias
  ) => (float[a,b,c] y, float[d,e,h,i] kc, float[j,k0,l,m] vc) <
  int64[4] four = {{0, 0, 4, 8}}, int64[3] three = {{0, 0, 32}},
  int64[4] pair = {{0, 0, 2, 8}}, int64[4] many = {{0, 4, -1, 8}}, int64[1] i0 = {{0}}, int64[1] i1 = {{1}},
  int64[1] two = {{2}}, int64[1] i3 = {{3}}, int64[1] eight = {{8}}, float scale = {{0.35355338}}, float zero = {{0.0}},
  float low = {{LOW}}, float[32,32] w, float[32,16] u, float[32,16] v, float[8] gains, int64[1] b0 = {{4}},
  int64[1] end = {{99}}>
{{ {nodes}
}}"""
PROJECTED = """hq = MatMul(x, w)
 hk = MatMul(x, u)
 hv = MatMul(x, v)
 rq = Reshape(hq, four)
 rk = Reshape(hk, pair)
 rv = Reshape(hv, pair)
 q = Transpose<perm = [0, 2, 1, 3]>(rq)
 k1 = Transpose<perm = [0, 2, 1, 3]>(rk)
 v1 = Transpose<perm = [0, 2, 1, 3]>(rv)
 """
CACHE = "kc = Concat<axis = 2>(pk, k1)\n vc = Concat<axis = -2>(pv, v1)\n "
REPEATED = """sh = Shape(kc)
 n = Slice(sh, i0, i1)
 l = Slice(sh, two, i3)
 wide = Concat<axis = 0>(n, two, two, l, eight)
 ku = Unsqueeze(kc, two)
 ke = Expand(ku, wide)
 k4 = Reshape(ke, many)
 vu = Unsqueeze(vc, two)
 ve = Expand(vu, wide)
 v4 = Reshape(ve, many)
 """
SCORES = "kt = Transpose<perm = [0, 1, 3, 2]>(k4)\n s = MatMul(q, kt)\n c = Mul(s, scale)\n "
MASK = "mask = Where(allowed, zero, low)\n b = Add(c, mask)\n "
JOIN = "o = MatMul(p, v4)\n t = Transpose<perm = [0, 2, 1, 3]>(o)\n y = Reshape(t, three)"
GUARD = "r = Softmax(b)\n isn = IsNaN(r)\n p = Where(isn, zero, r)\n "
FORMS = {
    "eager": (MASK + "p = Softmax(b)\n ", "-3.4028234663852886e38"),
    "guarded, as torch writes it": (MASK + GUARD, "-inf"),
    "no mask": ("p = Softmax(c)\n ", "0.0"),
    "a bias that is computed": ("b = Add(c, bias)\n p = Softmax(b)\n ", "0.0"),
}  # fmt: skip
OPERATOR = "o = Attention<scale = 0.35355338>(q, k4, v4, allowed)\n " + JOIN.partition("\n")[2].strip()
TURNED = """ff = Concat<axis = -1>(f, f)
 co = Cos(ff)
 si = Sin(ff)
 cu = Unsqueeze(co, i1)
 su = Unsqueeze(si, i1)
 x1 = Slice(q, i0, b0, i3)
 x2 = Slice(q, b0, end, i3)
 g1 = Neg(x2)
 g = Concat<axis = -1>(g1, x1)
 a1 = Mul(q, cu)
 a2 = Mul(g, su)
 qr = Add(a1, a2)
 """


def decoder(nodes, low="-3.4028234663852886e38", opset=23, length="P+S"):
    """The model, in which masks have the length of earlier and new keys: a name that onnx's parser does not read."""
    made = lift(HEAD.replace("LOW", low).format(nodes=nodes), opset)
    for value in made.graph.inputs:
        value.type = TensorType(value.type.dtype, tuple(length if size == "T" else size for size in value.type.shape))
    return made


def same_where_masked(before, after, seed=0, heads=2):
    """Equal for a batch with padding before and after, holes, and rows that the mask leaves nothing."""
    a, b = (onnx_io.to_proto(m) for m in (before, after))
    rng = np.random.default_rng(seed)
    for rows, past in ((1, 5), (4, 0), (3, 2)):
        feeds = random_feeds(a, seed, 3)
        shapes = {"pk": (3, heads, past, 8), "pv": (3, heads, past, 8), "x": (3, rows, 32), "f": (3, rows, 4)}
        for name, shape in {**shapes, "bias": (3, 1, rows, past + rows)}.items():
            if name in feeds:
                feeds[name] = rng.standard_normal(shape).astype(np.float32)
        causal = np.arange(past + rows) <= np.arange(rows)[:, None] + past
        kept = np.ones((3, 1, 1, past + rows), bool)
        kept[0, ..., :2], kept[1, ..., -1:], kept[2, ..., 1:2] = False, False, False
        feeds["allowed"] = np.broadcast_to(causal & kept, (3, 1, rows, past + rows)).copy()
        feeds["allowed"][2, 0, 0] = False
        feeds = {given.name: feeds[given.name] for given in a.graph.input}
        for x, y in zip(outputs(a, feeds), outputs(b, feeds)):
            assert np.isfinite(x).all()
            np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
@pytest.mark.parametrize("name", FORMS)
def test_a_cache_of_fewer_heads_is_part_of_the_operator(name, target):
    form, low = FORMS[name]
    before = decoder(PROJECTED + CACHE + REPEATED + SCORES + form + JOIN, low)
    after, changes = rewrite(before, name_sizes, fuse_attention, target=target)
    assert changes == 1 and "Attention" in ops(after)
    assert not {"Concat", "Expand", "Transpose", "Softmax"} & set(ops(after))
    same_where_masked(before, after)


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
def test_a_product_behind_may_be_quantized_while_running(target):
    codes = "\n codes, cs, cz = DynamicQuantizeLinear(z)\n y = DequantizeLinear(codes, cs, cz)"
    form, low = FORMS["eager"]
    before = decoder(PROJECTED + CACHE + REPEATED + SCORES + form + JOIN.replace("y = ", "z = ") + codes, low)
    after, changes = rewrite(before, name_sizes, fuse_attention, target=target)
    assert changes == 1 and "Attention" in ops(after)
    fixed = decoder(PROJECTED + CACHE + REPEATED + SCORES + form + JOIN.replace("y = ", "z = ")
                    + "\n codes = QuantizeLinear(z, scale)\n y = DequantizeLinear(codes, scale)", low)  # fmt: skip
    assert rewrite(fixed, name_sizes, fuse_attention, target=target)[1] == 0


def test_the_operator_takes_the_mask_and_returns_the_caches():
    before = decoder(PROJECTED + CACHE + REPEATED + SCORES + MASK + GUARD + JOIN, "-inf")
    after, _ = rewrite(before, name_sizes, fuse_attention, target="onnxruntime")
    assert body(after).splitlines()[-2:] == [
        "%y, %13, %14 = Attention(%hq, %hk, %hv, %allowed, %pk, %pv) {kv_num_heads=2, q_num_heads=4, scale=0.35355338}",
        "return %y, %13, %14",
    ]


def test_rows_without_an_allowed_element_become_zeros_where_the_kernel_gives_others(monkeypatch):
    before = decoder(PROJECTED + CACHE + REPEATED + SCORES + MASK + GUARD + JOIN, "-inf")
    monkeypatch.setattr("graphopt.passes.fuse.attention.cached.empty_rows_are_zeros", lambda: False)
    after, _ = rewrite(before, name_sizes, fuse_attention, target="onnxruntime")
    assert ops(after)[-2:] == ["Attention", "Where"] and ops(after).count("ReduceSum") == 1
    same_where_masked(before, after)


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
def test_an_operator_without_its_cache_takes_it(target):
    before = decoder(PROJECTED + CACHE + REPEATED + OPERATOR)
    after, changes = rewrite(before, name_sizes, fuse_attention, target=target)
    assert changes == 1 and ops(after) == ["MatMul", "MatMul", "MatMul", "Attention"]
    same_where_masked(before, after)


def normed(axis, repeated=REPEATED):
    """Queries and keys normed head by head before the rotary embedding, as Qwen 3 and Gemma 3 have them."""
    norms = PROJECTED.replace("q = Trans", "q0 = Trans").replace("k1 = Trans", "k0 = Trans")
    for name in ("q", "k1"):
        norms += f"{name} = RMSNormalization<axis = {axis}, epsilon = 0.001>({name[0]}0, gains)\n "
    nodes = norms + TURNED + CACHE + repeated + SCORES.replace("MatMul(q,", "MatMul(qr,") + MASK + GUARD + JOIN
    return decoder(nodes, "-inf")


@pytest.mark.parametrize("axis", [-1, 3])
def test_normed_heads_stay_side_by_side(axis):
    """Transpose(x) normed over its last axis = Transpose(x normed)"""
    after, _ = rewrite(before := normed(axis), name_sizes, fuse_operators, fuse_attention)
    assert ops(after).count("RMSNormalization") == 2 and "Transpose" not in ops(after)
    assert "Attention" in ops(after) and "RotaryEmbedding" in ops(after)
    same_where_masked(before, after)


def test_one_normed_head_of_keys_needs_no_transposition(monkeypatch):
    """Reshapes alone make f32[B,1,S,D] of f32[B,S,D], as passes before leave them."""
    one_head = HEAD.replace("[B,2,P,8]", "[B,1,P,8]").replace("[32,16]", "[32,8]").replace("{{0, 0, 2,", "{{0, 0, 1,")
    monkeypatch.setitem(globals(), "HEAD", one_head)
    before = normed(-1, repeated=REPEATED.replace("(n, two, two, l, eight)", "(n, i1, b0, l, eight)"))
    after, _ = rewrite(before, name_sizes, join_shape_changes, fuse_operators, fuse_attention)
    assert ops(after).count("RMSNormalization") == 2 and "Transpose" not in ops(after)
    same_where_masked(before, after, heads=1)


def test_heads_normed_with_their_rows_stay_transposed():
    after, _ = rewrite(normed(2), name_sizes, fuse_operators, fuse_attention)
    assert "Transpose" in ops(after)


def test_rotated_heads_stay_side_by_side():
    nodes = PROJECTED + TURNED + CACHE + REPEATED + SCORES.replace("MatMul(q,", "MatMul(qr,") + MASK + GUARD + JOIN
    before = decoder(nodes, "-inf")
    after, _ = rewrite(before, name_sizes, fuse_operators, fuse_attention)
    assert ops(after).count("RotaryEmbedding") == 1 and "Transpose" not in ops(after) and "Neg" not in ops(after)
    same_where_masked(before, after)


PARTED = (
    """h0 = MatMul(x, all)
 h = Add(h0, shifts)
 r = Reshape(h, wider)
 t0 = Transpose<perm = [0, 2, 1, 3]>(r)
 q, k1, v1 = Split<axis = -1>(t0, thirds)
 kc = Concat<axis = 2>(pk, k1)
 vc = Concat<axis = -2>(pv, v1)
 kt = Transpose<perm = [0, 1, 3, 2]>(kc)
 s = MatMul(q, kt)
 c = Mul(s, scale)
 """
    + MASK
    + "p = Softmax(b)\n "
    + JOIN.replace("v4", "vc")
)


def parted(nodes, monkeypatch):
    """Four heads of keys and of values, too, all of one product."""
    head = HEAD.replace("pk, float[B,2,P,8]", "pk, float[B,4,P,8]").replace("float[B,2,P,8] pk", "float[B,4,P,8] pk")
    more = "float[32,96] all, float[96] shifts, int64[4] wider = {{0, 0, 4, 24}}, int64[3] thirds = {{8, 8, 8}}"
    monkeypatch.setattr(f"{__name__}.HEAD", head.replace("int64[1] end", f"{more}, int64[1] end"))
    return decoder(nodes)


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
@pytest.mark.parametrize("biased", [True, False])
def test_heads_of_queries_keys_and_values_in_turn_are_regrouped(target, biased, monkeypatch):
    nodes = PARTED if biased else PARTED.replace("h0 = MatMul", "h = MatMul").replace("h = Add(h0, shifts)\n", "")
    before = parted(nodes, monkeypatch)
    after, changes = rewrite(before, name_sizes, fuse_attention, target=target)
    assert changes == 1 and not {"Concat", "Transpose", "Softmax"} & set(ops(after))
    assert ops(after).count("MatMul") == 1 and ops(after).count("Split") == 1
    same_where_masked(before, after, heads=4)


TWICE = {
    "the product": PARTED.replace("r = Reshape(h, w", "z = Relu(h)\n r = Reshape(z, w"),
    "a part": PARTED.replace("s = MatMul(q,", "qq = Relu(q)\n s = MatMul(qq,"),
}


@pytest.mark.parametrize("name", TWICE)
def test_products_read_otherwise_are_not_computed_twice(name, monkeypatch):
    before = parted(TWICE[name], monkeypatch)
    after, changes = rewrite(before, name_sizes, fuse_attention)
    assert changes == 1 and ops(after).count("MatMul") == 1 and "Transpose" in ops(after)
    same_where_masked(before, after, heads=4)


def test_heads_that_are_used_one_by_one_keep_four_axes():
    nodes = PROJECTED + CACHE + REPEATED + SCORES + MASK + "p = Softmax(b)\n o = MatMul(p, v4)\n "
    before = decoder(nodes + "r0 = ReduceMax<keepdims = 0>(o, two)\n y = Relu(r0)")
    after, changes = rewrite(before, name_sizes, fuse_attention)
    assert changes == 1 and "Concat" not in ops(after) and ops(after).count("Transpose") == 3
    same_where_masked(before, after)


CROSS = """g (float[B,S,16] x, float[B,2,L,8] key, float[B,2,N,8] value, bool[B,1,S,L] allowed) => (float[a,b,c] y)
  <int64[4] pair = {{0, 0, 2, 8}}, int64[3] joined = {{0, 0, 16}}, float[16,16] w, float zero = {{0.0}},
  float low = {{-inf}}> {{
 hq = MatMul(x, w)
 rq = Reshape(hq, pair)
 q = Transpose<perm = [0, 2, 1, 3]>(rq)
 kt = Transpose<perm = [0, 1, 3, 2]>(key)
 s = MatMul(q, kt)
 mask = Where(allowed, zero, low)
 b = Add(s, mask)
 r = Softmax(b)
 isn = IsNaN(r)
 p = Where(isn, zero, r)
 o = MatMul(p, value)
 t = Transpose<perm = [0, 2, 1, 3]>(o)
 y = Reshape(t, joined)
}}"""


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
def test_keys_of_an_encoder_enter_as_they_are(target):
    before = lift(CROSS.format(), 23)
    after, changes = rewrite(before, name_sizes, fuse_attention, target=target)
    assert changes == 1 and "Softmax" not in ops(after) and ops(after).count("Transpose") == 2
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(shape).astype(np.float32)
             for name, shape in (("x", (2, 3, 16)), ("key", (2, 2, 5, 8)), ("value", (2, 2, 5, 8)))}  # fmt: skip
    feeds["allowed"] = rng.integers(0, 2, (2, 1, 3, 5)).astype(bool)
    feeds["allowed"][1, 0, 1] = False
    x, y = (outputs(onnx_io.to_proto(model), feeds)[0] for model in (before, after))
    assert not x[1, 1].any() and x[0].any()
    np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)


def test_heads_of_one_token_need_no_transposition():
    one = {"q": 4, "k1": 2, "v1": 2}
    projected = "hq = MatMul(x, w)\n hk = MatMul(x, u)\n hv = MatMul(x, v)\n " + "".join(
        f"{name} = Reshape(h{name[0]}, one{heads})\n " for name, heads in one.items()
    )
    nodes = projected + CACHE + REPEATED + SCORES + "p = Softmax(c)\n o = MatMul(p, v4)\n y = Reshape(o, three)"
    text = HEAD.replace("LOW", "0.0").replace("float[B,S,32] x", "float[B,1,32] x")
    text = text.replace("int64[1] i0", "int64[4] one4 = {{0, 4, 1, 8}}, int64[4] one2 = {{0, 2, 1, 8}}, int64[1] i0")
    before = lift(text.format(nodes=nodes.replace("Reshape(o, three)", "Reshape(o, row)")).replace(
        "int64[1] i0", "int64[3] row = {0, 1, 32}, int64[1] i0"), 23)  # fmt: skip
    after, changes = rewrite(before, name_sizes, fuse_attention)
    assert changes == 1 and ops(after) == ["MatMul", "MatMul", "MatMul", "Attention"]
    feeds = random_feeds(onnx_io.to_proto(before), 0, 3)
    for x, y in zip(*(outputs(onnx_io.to_proto(model), feeds) for model in (before, after))):
        np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)


WHOLE = PROJECTED + CACHE + REPEATED + SCORES + MASK + "p = Softmax(b)\n " + JOIN
STAYS = {
    "a mask of another length": (WHOLE, {"length": "T"}),
    "keys that are used elsewhere": (WHOLE.replace("y = Reshape(t, three)", "e = ReduceMax(kc)\n z = Reshape(t, three)"
                                                   "\n y = Add(z, e)"), {}),
    "keys joined along another axis": (WHOLE.replace("Concat<axis = 2>(pk, k1)", "Concat<axis = 2>(k1, pk)")
                                       .replace("pk, k1", "k1, pk").replace("many", "four"), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_other_caches_stay(name):
    nodes, options = STAYS[name]
    after, _ = rewrite(decoder(nodes, **options), name_sizes, fuse_attention, target="onnxruntime")
    assert not any(node.op == "Attention" and len(node.outputs) == 3 for node in after.graph.walk())


def test_a_model_with_a_cache_goes_to_the_opset_of_attention_for_onnxruntime():
    before = decoder(PROJECTED + CACHE + REPEATED + SCORES + MASK + GUARD + JOIN, "-inf", opset=17)
    after, changes = rewrite(before, raise_opset, target="onnxruntime")
    assert changes and after.opset == 23
    same_where_masked(before, rewrite(after, name_sizes, fuse_attention, target="onnxruntime")[0])
    assert rewrite(before, raise_opset)[0].opset == 17


@pytest.mark.parametrize("square", ["Mul(x, x)", "Pow(x, two)"])
def test_a_model_with_root_mean_squares_goes_there_too(square):
    text = """g (float[N,8] x) => (float[a,b] y) <float two = {2.0}, float eps = {1e-5}> {
      q = SQUARE\n m = ReduceMean<axes = [-1]>(q)\n e = Add(m, eps)\n r = Sqrt(e)\n y = Div(x, r) }"""
    before = lift(text.replace("SQUARE", square), 17)
    after, _ = rewrite(before, raise_opset, fuse_operators, target="onnxruntime")
    assert ops(after) == ["RMSNormalization"]
    assert_same(before, after)
    centred = lift(text.replace("SQUARE", "Mul(x, two)"), 17)
    assert rewrite(centred, raise_opset, target="onnxruntime")[0].opset == 17


RAISED_NOT = {
    "no cache": "g (float[B,2,S,8] x, float[B,2,S,8] z) => (float[a,b,c,d] y) { r = Relu(x)\n t = Relu(z)\n"
                " y = Concat<axis = 2>(r, t) }",
    "an operator without a later form": "g (float[B,2,S,8] x, float[B,2,P,8] p) => (float[a,b,c,d] y, float[a,b] z) "
                "<float[2] one> { r = Relu(x)\n y = Concat<axis = 2>(p, r)\n"
                " n = GroupNormalization<num_groups = 2>(r, one, one)\n"
                " z = ReduceMax<axes = [2, 3], keepdims = 0>(n) }",
}  # fmt: skip


@pytest.mark.parametrize("name", RAISED_NOT)
def test_other_models_keep_their_opset(name):
    before = lift(RAISED_NOT[name], 18 if "Group" in RAISED_NOT[name] else 17)
    assert rewrite(before, raise_opset, target="onnxruntime")[0].opset == before.opset


NO_LATER_KERNEL = {
    "LeakyRelu(d)": 16, "PRelu(d, d)": 17, "Bernoulli(r)": 15, "RoiAlign(r, rois, items)": 21,
    "ReduceLogSumExp(b)": 18,
    **{f"{op}(d)": 18 for op in
       ("Elu", "HardSigmoid", "HardSwish", "Mish", "Selu", "Softplus", "Softsign", "ThresholdedRelu")},
}  # fmt: skip
"""Operators on d of float64, b of bfloat16 or r of float32, and an opset at which onnxruntime runs them, as it does not
at 23: all that are found by loading ONNX's own node tests, with each type of floats or integers, at each opset."""


def beside_a_cache(form, opset):
    text = f"""g (float[B,2,S,8] x, float[B,2,P,8] p, float[K,4] rois, int64[K] items) =>
      (float[a,b,c,d] y, float[e,f,h,i] z) {{
      r = Sigmoid(x)\n y = Concat<axis = 2>(p, r)\n d = Cast<to = 11>(r)\n b = Cast<to = 16>(r)
      k = {form}\n z = Cast<to = 1>(k) }}"""
    return lift(text, opset)


@pytest.mark.parametrize("form", NO_LATER_KERNEL)
def test_a_model_keeps_its_opset_where_a_later_one_has_no_kernel(form, caplog):
    before = beside_a_cache(form, NO_LATER_KERNEL[form])
    with caplog.at_level("INFO", "graphopt"):
        after, changes = rewrite(before, raise_opset, target="onnxruntime")
    assert not changes and after.opset == NO_LATER_KERNEL[form]
    assert f"onnxruntime has no {form.partition('(')[0]}" in caplog.text and "at opset 23" in caplog.text


@pytest.mark.parametrize("form", ["LeakyRelu(r)", "Relu(d)", "PRelu(r, r)", "ReduceLogSumExp(d)"])
def test_other_types_of_these_operators_are_raised(form):
    before = beside_a_cache(form, 18)
    after, _ = rewrite(before, raise_opset, target="onnxruntime")
    assert after.opset == 23
    assert_same(before, after)


def test_a_kept_opset_rolls_nothing_back():
    before = onnx_io.to_proto(beside_a_cache("LeakyRelu(d)", 16))
    result = optimize(before, target="onnxruntime")
    assert result.report.status == "equal" and not result.report.rolled_back
    assert result.model.opset_import[0].version == 16


def test_sums_of_sizes_have_one_name():
    assert total("past", "seq") == total("seq", "past") == "past+seq"
    assert total("a+c", "b") == "a+b+c" and total("n", 2) == "n+2" and total(total("n", 2), 3) == "n+5"
    assert total("n", -1) is None and total(None, 3) is None and total(3, 4) == 7
    assert remainder("past+seq", "past") == "seq" and remainder("n+3", 3) == "n" and remainder("n", "n") == 0
    assert remainder("n", "m") is None and remainder("n", 2) is None and remainder(2, 5) == -3


def test_sizes_are_named_along_a_cache():
    before = decoder(PROJECTED + CACHE + REPEATED + SCORES + MASK + "p = Softmax(b)\n " + JOIN)
    after, _ = rewrite(before, name_sizes)
    shapes = {value.name: value.type.shape for node in after.graph for value in node.outputs}
    assert shapes["kc"] == ("B", 2, "P+S", 8) and shapes["k4"] == ("B", 4, "P+S", 8)
    assert shapes["s"] == ("B", 4, "S", "P+S")
