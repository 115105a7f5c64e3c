"""Linear maps that follow each other become one where that saves work, and stay where it would not."""

import pytest

from graphopt.passes.fold.linear_maps import compose_linear_maps
from tests.passes.harness import assert_same, lift, ops, rewrite

HEAD = """g (float[N,S,6] x, float[N,6] r) => (float[{axes}] y) <float[6,8] a, float[8,4] b,
  float[6,2] thin, float[2,6] wide, float[8] c, float[4] d, float[1] one,
  float[5,8] rows, float[4,8] bt, float[8,6] at> {{ {nodes}
}}"""
COMPOSES = {
    "products": ("h = MatMul(x, a)\n y = MatMul(h, b)", ["MatMul"]),
    "shifted products": ("h = MatMul(x, a)\n s = Add(c, h)\n y = MatMul(s, b)", ["MatMul", "Add"]),
    "products shifted by a number": ("h = MatMul(x, a)\n s = Add(h, one)\n y = MatMul(s, b)", ["MatMul", "Add"]),
    "gemms": ("h = Gemm(r, a, c)\n y = Gemm(h, b, d)", ["Gemm"]),
    "gemms, transposed": ("h = Gemm<transB = 1>(r, at)\n y = Gemm<transB = 1>(h, bt, d)", ["Gemm"]),
    "gemms without shifts": ("h = Gemm(r, a)\n y = Gemm(h, b)", ["Gemm"]),
}
STAYS = {
    "a narrow middle": "h = MatMul(x, thin)\n y = MatMul(h, wide)",
    "the first in use": "h = MatMul(x, a)\n m = ReduceMax(h)\n z = MatMul(h, b)\n y = Add(z, m)",
    "a weight in use": "h = MatMul(x, a)\n m = ReduceMax(a)\n z = MatMul(h, b)\n y = Add(z, m)",
    "shifts by row": "h = MatMul(x, a)\n s = Add(h, rows)\n y = MatMul(s, b)",
    "scaled": "h = Gemm<alpha = 0.5>(r, a, c)\n y = Gemm(h, b, d)",
    "an activation between": "h = MatMul(x, a)\n s = Relu(h)\n y = MatMul(s, b)",
    "quantized later": "h = MatMul(x, a)\n z = MatMul(h, b)\n q = QuantizeLinear(z, one)\n "
    "y = DequantizeLinear(q, one)",
}


def model(nodes, opset=17):
    return lift(HEAD.format(nodes=nodes, axes="k,l" if "(r," in nodes else "k,l,m"), opset)


@pytest.mark.parametrize("name", COMPOSES)
def test_maps_that_follow_each_other_are_one(name):
    nodes, wanted = COMPOSES[name]
    before = model(nodes)
    after, changes = rewrite(before, compose_linear_maps)
    assert (changes, ops(after)) == (1, wanted)
    assert_same(before, after, rtol=1e-5, sizes=(1, 5))


@pytest.mark.parametrize("name", STAYS)
def test_other_maps_stay(name):
    assert rewrite(model(STAYS[name]), compose_linear_maps)[1] == 0


def test_double_precision_composes_and_half_stays():
    nodes = COMPOSES["products"][0]
    for dtype, wanted in (("double", 1), ("float16", 0)):
        text = HEAD.format(nodes=nodes, axes="k,l,m").replace("float[", f"{dtype}[")
        before = lift(text)
        after, changes = rewrite(before, compose_linear_maps)
        assert changes == wanted
        assert_same(before, after, rtol=1e-5)
