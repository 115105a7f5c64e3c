"""Operators between pairs become operators on codes, on demand: results differ by one step of a code at most."""

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.passes import remove_dead_nodes
from graphopt.passes.codes.operators import use_integer_operators
from tests.passes.harness import lift, ops, outputs, random_feeds, rewrite

HEAD = """g ({codes}[N,4,6,6] x, {codes}[N,4,6,6] z) => ({codes}[a,b,c,d] y) <float s = {{0.05}},
  {codes} q = {{{zero}}}, float s2 = {{0.031}}, {codes} q2 = {{{zero}}}, int8[3,4,3,3] k,
  float ks = {{0.02}}, int8 kz = {{0}},
  float[4] each = {{0.1, 0.2, 0.3, 0.4}}, {codes}[4] zeros = {{0, 0, 0, 0}}> {{
  d = DequantizeLinear(x, s, q)
  e = DequantizeLinear(z, s2, q2)
  {nodes}
  y = QuantizeLinear(r, s2, q2)
}}"""
USES = {
    "r = Sigmoid(d)": "com.microsoft::QLinearSigmoid",
    "r = LeakyRelu<alpha = 0.2>(d)": "com.microsoft::QLinearLeakyRelu",
    "r = AveragePool<kernel_shape = [2, 2], strides = [2, 1]>(d)": "com.microsoft::QLinearAveragePool",
    "r = GlobalAveragePool(d)": "com.microsoft::QLinearGlobalAveragePool",
    "r = Add(d, e)": "com.microsoft::QLinearAdd",
    "r = Mul(e, d)": "com.microsoft::QLinearMul",
    "r = Concat<axis = 1>(d, e, d)": "com.microsoft::QLinearConcat",
    "r = MatMul(d, e)": "QLinearMatMul",
    "w = DequantizeLinear(k, ks, kz)\n r = Conv(d, w)": "QLinearConv",
}
STAYS = {
    "another operator": "r = Tanh(d)",
    "floats": "f = Exp(e)\n r = Add(d, f)",
    "scales by channel": "p = DequantizeLinear<axis = 1>(z, each, zeros)\n r = Add(d, p)",
    "in use": "t = Sigmoid(d)\n m = ReduceMax(t)\n u = QuantizeLinear(t, s2, q2)\n "
    "v = DequantizeLinear(u, s2, q2)\n r = Add(v, m)",
}


def model(nodes, codes="uint8"):
    weights = np.random.default_rng(0).integers(-99, 99, (3, 4, 3, 3))
    return lift(HEAD.format(nodes=nodes, codes=codes, zero=128 if codes == "uint8" else 0), k=weights)


@pytest.mark.parametrize("codes", ["uint8", "int8"])
@pytest.mark.parametrize("nodes", USES)
def test_operators_run_on_codes(nodes, codes):
    before = model(nodes, codes)
    before, _ = rewrite(before, remove_dead_nodes)
    after, changes = rewrite(before, use_integer_operators, target="onnxruntime")
    assert (changes, ops(after)) == (1, [USES[nodes]])
    a, b = onnx_io.to_proto(before), onnx_io.to_proto(after)
    info, rng = np.iinfo(codes), np.random.default_rng(0)
    feeds = {k: rng.integers(info.min, info.max + 1, v.shape).astype(codes) for k, v in random_feeds(a, size=2).items()}
    for x, y in zip(outputs(a, feeds), outputs(b, feeds)):
        assert x.dtype == y.dtype
        assert np.abs(x.astype(int) - y).max() <= 1


@pytest.mark.parametrize("name", STAYS)
def test_other_operators_stay(name):
    after, _ = rewrite(model(STAYS[name]), use_integer_operators, target="onnxruntime")
    assert not any("QLinear" in op for op in ops(after) if "Add" not in op)


def test_portable_models_use_those_of_onnx_only():
    for nodes, wanted in USES.items():
        _, changes = rewrite(model(nodes), use_integer_operators)
        assert changes == ("::" not in wanted)
