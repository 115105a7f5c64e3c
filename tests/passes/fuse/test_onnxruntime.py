"""What only onnxruntime has: epilogues of Conv, Gemm and MatMul, and Gelu with a bias. Other targets keep their own."""

import pytest

from graphopt.passes.fuse import fuse_for_onnxruntime, fuse_operators
from tests.passes.harness import assert_same, lift, ops, rewrite

IMAGE = """g (float[N,4,7,7] x) => (float[a,b,c,d] y) <float[6,4,3,3] w, float[6] bias, float low = {{0.5}},
  float high = {{2.0}}> {{ h = Conv<pads = [1, 1, 1, 1]>(x, w, bias)
  {nodes}
}}"""
ROWS = """g (float[N,3,4] x, float[N,3,4] z, float[N,4] r) => (float[a,b,c] y) <float[4,6] w, float[6] bias,
  float[4] b4, float half = {{0.5}}, float[4,4] square, float[1,1,1,1] wide = {{2.0}}, float[3,1] column,
  float one = {{1.0}}, float root = {{1.4142135}}> {{ {nodes}
}}"""
ERF = "d = Div(s, root)\n e = Erf(d)\n f = Add(e, one)\n h = Mul(s, f)\n y = Mul(h, half)"
FUSES = {
    **{f"conv, {name}": (IMAGE, f"y = {name}(h)", ["com.microsoft::FusedConv"])
       for name in ("Relu", "Sigmoid", "Tanh", "LeakyRelu<alpha = 0.2>", "HardSigmoid<alpha = 0.3, beta = 0.4>")},
    "conv, Clip": (IMAGE, "y = Clip(h, low, high)", ["com.microsoft::FusedConv"]),
    "conv, half a Clip": (IMAGE, "y = Clip(h, low)", ["com.microsoft::FusedConv"]),
    **{f"gemm, {name}": (ROWS, f"g = Gemm<alpha = 0.5>(r, w, bias)\n t = {name}(g)\n y = Unsqueeze(t, axis)",
                         ["com.microsoft::FusedGemm", "Unsqueeze"])
       for name in ("Relu", "Tanh", "LeakyRelu<alpha = 0.2>")},
    "product and factor": (ROWS, "m = MatMul(x, w)\n y = Mul(half, m)", ["com.microsoft::FusedMatMul"]),
    "product and quotient": (ROWS, "m = MatMul(x, w)\n y = Div(m, half)", ["com.microsoft::FusedMatMul"]),
    "second factor transposed": (ROWS, "t = Transpose<perm = [0, 2, 1]>(z)\n y = MatMul(x, t)",
                                 ["com.microsoft::FusedMatMul"]),
    "first factor transposed": (ROWS, "t = Transpose<perm = [0, 2, 1]>(x)\n m = MatMul(t, z)\n y = Mul(m, half)",
                                ["com.microsoft::FusedMatMul"]),
    "bias and gelu": (ROWS, "m = MatMul(x, w)\n s = Add(m, bias)\n " + ERF, ["MatMul", "com.microsoft::BiasGelu"]),
}  # fmt: skip
STAYS = {
    "conv in use": (IMAGE, "t = Relu(h)\n y = Add(t, h)"),
    "another activation": (IMAGE, "y = Elu(h)"),
    "factor that is a column": (ROWS, "m = MatMul(x, w)\n y = Mul(m, column)"),
    "factor that adds an axis": (ROWS.replace("[a,b,c]", "[a,b,c,d]"), "m = MatMul(x, w)\n y = Mul(m, wide)"),
    "quotient the other way": (ROWS, "m = MatMul(x, w)\n y = Div(half, m)"),
    "other axes permuted": (ROWS, "t = Transpose<perm = [2, 0, 1]>(z)\n y = MatMul(t, w4)"),
}  # fmt: skip


def model(head, nodes):
    text = head.format(nodes=nodes).replace("float[4] b4", "float[4] b4, int64[1] axis = {0}, float[3,2] w4")
    return lift(text)


@pytest.mark.parametrize("name", FUSES)
def test_epilogues_move_into_their_product(name):
    head, nodes, wanted = FUSES[name]
    before = model(head, nodes)
    after, _ = rewrite(before, fuse_operators, fuse_for_onnxruntime, target="onnxruntime")
    assert ops(after) == wanted
    assert_same(before, after)


@pytest.mark.parametrize("name", FUSES)
def test_portable_models_keep_to_the_standard(name):
    head, nodes, _ = FUSES[name]
    after, _ = rewrite(model(head, nodes), fuse_operators, fuse_for_onnxruntime)
    assert not any("::" in op for op in ops(after))


@pytest.mark.parametrize("name", STAYS)
def test_other_epilogues_stay(name):
    head, nodes = STAYS[name]
    assert rewrite(model(head, nodes), fuse_for_onnxruntime, target="onnxruntime")[1] == 0


def test_double_precision_stays():
    head, nodes, _ = FUSES["product and factor"]
    before = model(head.replace("float", "double"), nodes)
    assert rewrite(before, fuse_for_onnxruntime, target="onnxruntime")[1] == 0


SKIP = """g (float[B,S,8] x, float[B,S,8] r) => (float[a,b,c] y) <float[8] gamma, float[8] beta, float[8] bias> {
  e = Exp(x)
  NODES
  y = LayerNormalization<axis = -1>(s, gamma, beta)
}"""
SUMS = {
    "two": ("s = Add(e, r)", 1, ["Exp", "Sum", "LayerNormalization"]),
    "three": ("t = Add(bias, e)\n s = Add(r, t)", 1, ["Exp", "Sum", "LayerNormalization"]),
    "none": ("s = Mul(e, r)", 0, ["Exp", "Mul", "LayerNormalization"]),
    "three, none of them a bias": ("t = Mul(bias, e)\n s = Add(r, t)", 1, ["Exp", "Mul", "Sum", "LayerNormalization"]),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_before_a_norm_are_kept_from_a_slow_fusion(name):
    nodes, changes, wanted = SUMS[name]
    before = lift(SKIP.replace("NODES", nodes))
    assert rewrite(before, fuse_for_onnxruntime)[1] == 0
    after, made = rewrite(before, fuse_for_onnxruntime, target="onnxruntime")
    assert (made, ops(after)) == (changes, wanted)
    assert_same(before, after, rtol=1e-6)


HEADS = """g (float[B,S,12] x) => (float[a,b,c] y) <float[4] gamma, int64[4] apart = {0, 0, 3, 4},
  int64[3] joined = {0, 0, 12}> {
  h = Reshape(x, apart)
  n = RMSNormalization<axis = -1, epsilon = 0.01>(h, gamma)
  y = Reshape(n, joined)
}"""
OTHER_NORMS = {
    "of all heads together": (("axis = -1", "axis = 2"), ("float[4] gamma", "float[3,4] gamma")),
    "of a matrix": (("{0, 0, 3, 4}", "{0, 0, 4, 3}"), ("[4] gamma", "[3] gamma"), ("{0, 0, 12}", "{0, 12, -1}")),
    "one gain for all": (("float[4] gamma", "float[1] gamma"),),
    "in double precision": (("float", "double"),),
    "heads by two axes": (("{0, 0, 3, 4}", "{0, 0, 3, 2, 2}"), ("int64[4]", "int64[5]"), ("[4] gamma", "[2] gamma")),
    "heads with another reader": (
        ("[a,b,c] y)", "[a,b,c] y, float[d,e,f,k] z)"),
        ("joined)\n}", "joined)\n  z = Abs(n)\n}"),
    ),
}


def test_heads_are_normed_side_by_side():
    before = lift(HEADS, 23)
    after, changes = rewrite(before, fuse_for_onnxruntime, target="onnxruntime")
    assert (changes, ops(after)) == (1, ["com.microsoft::BranchwiseRMSNorm"])
    assert_same(before, after, rtol=1e-6)
    assert rewrite(before, fuse_for_onnxruntime)[1] == 0


@pytest.mark.parametrize("name", OTHER_NORMS)
def test_norms_of_other_rows_stay(name):
    text = HEADS
    for old, new in OTHER_NORMS[name]:
        assert old in text
        text = text.replace(old, new)
    assert rewrite(lift(text, 23), fuse_for_onnxruntime, target="onnxruntime")[1] == 0
