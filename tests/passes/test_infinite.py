"""Infinite constants stay where they are: moved into a weight, they would meet its zeros, and give NaN."""

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.passes import compose_linear_maps, fold_affine, fold_affine_before, fold_batchnorm, fold_chains
from graphopt.passes.fuse.norms import fuse_layer_norm
from graphopt.pipeline.passes import rule_pass
from tests.passes.harness import lift, outputs, random_feeds, rewrite

PASSES = (fold_chains, fold_affine, fold_batchnorm, fold_affine_before, compose_linear_maps)
CONV = """g (float[1,2,4,4] x) => (float[1,2,d,e] y)
  <float[2,2,1,1] w = {1, 0, 0, 2}, float[2] b = {1, 1}, float[1,2,1,1] c, float[1,2,1,1] e = {2, 3},
  float[2] g, float[2] t, float[2] m = {0, 0}, float[2] v = {1, 1}> { NODES }"""
MATRIX = """g (float[3,2] x) => (float[3,2] y)
  <float[2,2] w = {1, 0, 0, 2}, float[2,2] u = {0, 1, 1, 0}, float[2] b = {1, 1}, float[2] c,
  float[2] e = {2, 3}, float[2] g, float[2] t, float[2] m = {0, 0}, float[2] v = {1, 1}> { NODES }"""
NODES = {
    "conv, product": (CONV, "h = Conv(x, w)\n y = Mul(h, c)"),
    "conv, sum": (CONV, "h = Conv(x, w, b)\n y = Sub(h, c)"),
    "conv, quotient": (CONV, "h = Conv(x, w, b)\n y = Div(h, c)"),
    "product, sum, padded conv": (CONV, "p = Mul(x, c)\n s = Add(p, e)\n y = Conv<pads = [1, 1, 1, 1]>(s, w)"),
    "sum, conv": (CONV, "s = Add(x, c)\n y = Conv(s, w)"),
    "conv with a bias, norm": (CONV, "h = Conv(x, w, t)\n y = BatchNormalization(h, g, b, m, v)"),
    "gemm, product": (MATRIX, "h = Gemm(x, w, b)\n y = Mul(h, c)"),
    "gemm that leaves its bias, sum": (MATRIX, "h = Gemm<beta = 0.0>(x, w, c)\n y = Add(h, e)"),
    "gemm that leaves its bias, norm": (
        MATRIX,
        "h = Gemm<beta = 0.0>(x, w, t)\n y = BatchNormalization(h, g, b, m, v)",
    ),
    "norm, gemm that leaves its bias": (
        MATRIX,
        "h = BatchNormalization(x, g, b, m, v)\n y = Gemm<beta = 0.0>(h, w, t)",
    ),
    "matmul, product": (MATRIX, "h = MatMul(x, w)\n y = Mul(h, c)"),
    "matmul, sum, matmul": (MATRIX, "h = MatMul(x, w)\n s = Add(h, c)\n y = MatMul(s, u)"),
    "gemm, gemm": (MATRIX, "h = Gemm(x, w, c)\n y = Gemm(h, u, b)"),
    "two sums": (MATRIX, "s = Add(x, c)\n y = Add(s, c)"),
    "two products": (MATRIX, "p = Mul(x, c)\n y = Mul(p, e)"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", NODES)
def test_infinite_constants_meet_no_zeros(name, number):
    text, nodes = NODES[name]
    spread = np.array([number, 4.0]).reshape(1, 2, 1, 1) if text is CONV else [number, 4.0]
    before = lift(text.replace("NODES", nodes), c=np.array(spread), t=np.array([number, 4.0]), g=np.array([1.0, 2.0]))
    after, _ = rewrite(before, *PASSES)
    a, b = onnx_io.to_proto(before), onnx_io.to_proto(after)
    for feeds in (random_feeds(a), {"x": np.zeros_like(random_feeds(a)["x"])}):
        np.testing.assert_allclose(*outputs(b, feeds), *outputs(a, feeds), rtol=1e-5)


@pytest.mark.parametrize("name", NODES)
def test_the_same_arithmetic_is_folded_where_it_is_finite(name):
    text, nodes = NODES[name]
    spread = np.array([3.0, 4.0]).reshape(1, 2, 1, 1) if text is CONV else np.array([3.0, 4.0])
    before = lift(text.replace("NODES", nodes), c=spread, t=np.array([3.0, 4.0]), g=np.array([1.0, 2.0]))
    assert rewrite(before, *PASSES)[1] >= 1


@pytest.mark.parametrize(("number", "count"), [(0.0, 1), (-np.inf, 0)])
def test_rows_with_an_infinite_element_keep_their_chain(number, count):
    """LayerNormalization makes zeros of what is NaN."""
    text = """g (float[2,3,4] x) => (float[2,3,6] y)
      <int64[6] pads = {0, 0, 1, 0, 0, 1}, float fill, float two = {2}, float eps = {0.00001}> {
      p = Pad(x, pads, fill)  q = MaxPool<kernel_shape = [1]>(p)  m = ReduceMean<axes = [2]>(q)  c = Sub(q, m)
      s = Pow(c, two)  v = ReduceMean<axes = [2]>(s)  e = Add(v, eps)  r = Sqrt(e)  y = Div(c, r) }"""
    before = lift(text, fill=np.array(number, np.float32))
    after, _ = rewrite(before, rule_pass("alone", *fuse_layer_norm))
    assert sum(node.op.endswith("LayerNormalization") for node in after.graph) == count
    a, b = onnx_io.to_proto(before), onnx_io.to_proto(after)
    np.testing.assert_allclose(*outputs(b, random_feeds(a)), *outputs(a, random_feeds(a)), rtol=1e-5, atol=1e-6)
