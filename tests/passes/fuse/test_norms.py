"""Normalizations, softmax and batch norm are recognised from their arithmetic, and stay where it is another's."""

import numpy as np
import pytest

from graphopt.passes.fuse import fuse_operators
from tests.passes.harness import assert_same, lift, ops, rewrite

HEAD = """g (float[N,6,S,8] x) => (float[a,b,c,d] y) <float eps = {{0.00001}}, float two = {{2.0}}, float one = {{1.0}},
  float minus = {{-0.5}}, float root = {{0.5}}, int64[1] last = {{-1}}, int64[2] space = {{2, 3}}, int64[1] ch = {{1}},
  float tiny = {{0.000000000001}}, float[8] gamma, float[1,8] beta, float[6,1,1] each, float[1,6,1,1] shift,
  float[8] col, float[6,1,1] positive> {{ {nodes}
}}"""
MEAN = "m = ReduceMean(x, last)\n c = Sub(x, m)\n "
LAYER = MEAN + "p = Pow(c, two)\n v = ReduceMean(p, last)\n e = Add(v, eps)\n r = Sqrt(e)\n "
SPACE = LAYER.replace("last", "space")
RMS = "p = Mul(x, x)\n v = ReduceMean(p, last)\n e = Add(eps, v)\n r = Sqrt(e)\n "
LENGTH = "n = ReduceL2(x, last)\n "
CENTRED = "m = ReduceMax(x, last)\n c = Sub(x, m)\n e = Exp(c)\n s = ReduceSum(e, last)\n "
FUSES = {
    "layer norm": (LAYER + "y = Div(c, r)", 18, ["LayerNormalization"]),
    "layer norm, scale and shift": (LAYER + "n = Div(c, r)\n g = Mul(gamma, n)\n y = Add(g, beta)", 18,
                                    ["LayerNormalization"]),
    "layer norm, reciprocal": (LAYER + "q = Reciprocal(r)\n n = Mul(q, c)\n y = Mul(n, gamma)", 18,
                               ["LayerNormalization"]),
    "layer norm, one over": (LAYER + "q = Div(one, r)\n n = Mul(q, c)\n y = Add(n, beta)", 18, ["LayerNormalization"]),
    "layer norm, product": (LAYER.replace("Pow(c, two)", "Mul(c, c)") + "y = Div(c, r)", 18, ["LayerNormalization"]),
    "layer norm, power": (LAYER.replace("r = Sqrt(e)", "r = Pow(e, minus)") + "y = Mul(c, r)", 18,
                          ["LayerNormalization"]),
    "layer norm, root as power": (LAYER.replace("r = Sqrt(e)", "r = Pow(e, root)") + "y = Div(c, r)", 18,
                                  ["LayerNormalization"]),
    "layer norm, axes as attribute": (LAYER.replace("(x, last)", "<axes = [3]>(x)").replace("(p, last)",
                                      "<axes = [-1]>(p)") + "y = Div(c, r)", 17, ["LayerNormalization"]),
    "layer norm, scale that is computed": (LAYER + "n = Div(c, r)\n t = Tanh(gamma)\n y = Mul(n, t)", 18,
                                           ["Tanh", "LayerNormalization"]),
    "instance norm": (SPACE + "n = Div(c, r)\n g = Mul(each, n)\n y = Add(g, shift)", 18, ["InstanceNormalization"]),
    "instance norm below opset 17": (SPACE.replace("(x, space)", "<axes = [2, 3]>(x)").replace("(p, space)",
                                     "<axes = [2, 3]>(p)") + "y = Div(c, r)", 13, ["InstanceNormalization"]),
    "rms norm": (RMS + "n = Div(x, r)\n y = Mul(n, gamma)", 23, ["RMSNormalization"]),
    "rms norm, power": (RMS.replace("Mul(x, x)", "Pow(x, two)").replace("r = Sqrt(e)", "r = Pow(e, minus)")
                        + "n = Mul(x, r)\n y = Mul(gamma, n)", 23, ["RMSNormalization"]),
    "l2 norm": (LENGTH + "d = Clip(n, tiny)\n y = Div(x, d)", 18, ["LpNormalization"]),
    "l2 norm, maximum": (LENGTH + "d = Max(n, tiny)\n y = Div(x, d)", 18, ["LpNormalization"]),
    "l2 norm, expanded": (LENGTH + "d = Clip(n, tiny)\n s = Shape(x)\n f = Expand(d, s)\n y = Div(x, f)", 18,
                          ["LpNormalization"]),
    "softmax": (CENTRED.replace("(x, last)", "<axes = [-1]>(x)") + "y = Div(e, s)", 13, ["Softmax"]),
    "softmax, reciprocal": (CENTRED + "q = Reciprocal(s)\n y = Mul(e, q)", 18, ["Softmax"]),
    "log softmax": (CENTRED + "l = Log(s)\n y = Sub(c, l)", 18, ["LogSoftmax"]),
    "batch norm": ("m = Mul(each, x)\n y = Add(m, shift)", 13, ["BatchNormalization"]),
    "batch norm, quotient": ("m = Div(x, positive)\n y = Sub(m, shift)", 13, ["BatchNormalization"]),
    "batch norm and what follows": ("m = Mul(each, x)\n n = Add(m, shift)\n o = Mul(n, two)\n p = Sub(o, each)\n "
                                    "y = Div(p, positive)", 13, ["BatchNormalization"]),
}  # fmt: skip
STAYS = {
    "layer norm below its opset": (LAYER.replace("(x, last)", "<axes = [3]>(x)").replace("(p, last)",
                                   "<axes = [-1]>(p)") + "y = Div(c, r)", 16),
    "mean over another axis": (LAYER.replace("ReduceMean(p, last)", "ReduceMean(p, ch)") + "y = Div(c, r)", 18),
    "axis in the middle": (LAYER.replace("last", "ch") + "y = Div(c, r)", 18),
    "variance of another value": (MEAN + "q = Exp(x)\n p = Pow(q, two)\n v = ReduceMean(p, last)\n e = Add(v, eps)\n "
                                  "r = Sqrt(e)\n y = Div(c, r)", 18),
    "deviation in use": (LAYER + "n = Div(c, r)\n y = Add(n, c)", 18),
    "cube in place of the square": (LAYER.replace("Pow(c, two)", "Pow(c, one)") + "y = Div(c, r)", 18),
    "divided the other way": (LAYER + "y = Div(r, c)", 18),
    "rms norm below its opset": (RMS + "y = Div(x, r)", 18),
    "l2 norm with a bound that shows": (LENGTH + "d = Clip(n, eps)\n y = Div(x, d)", 18),
    "l2 norm over channels, which is slower": (LENGTH.replace("last", "ch") + "d = Clip(n, tiny)\n y = Div(x, d)", 18),
    "l2 norm over two axes": ("n = ReduceL2(x, space)\n d = Clip(n, tiny)\n y = Div(x, d)", 18),
    "softmax over two axes": (CENTRED.replace("last", "space") + "y = Div(e, s)", 18),
    "softmax of unequal axes": (CENTRED.replace("ReduceSum(e, last)", "ReduceSum(e, ch)") + "y = Div(e, s)", 18),
    "softmax that may overflow": ("e = Exp(x)\n s = ReduceSum(e, last)\n y = Div(e, s)", 18),
    "a scale of columns": ("m = Mul(col, x)\n y = Add(m, shift)", 13),
    "one number for all": ("m = Mul(x, two)\n y = Add(m, one)", 13),
    "constant over x": ("m = Div(each, x)\n y = Add(m, shift)", 13),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSES)
def test_normalizations_are_recognised(name):
    nodes, opset, wanted = FUSES[name]
    before = lift(HEAD.format(nodes=nodes), opset, positive=np.linspace(0.5, 2, 6).reshape(6, 1, 1))
    after, _ = rewrite(before, fuse_operators)
    assert ops(after) == wanted
    assert_same(before, after, rtol=1e-4)


@pytest.mark.parametrize("name", STAYS)
def test_other_arithmetic_stays(name):
    nodes, opset = STAYS[name]
    before = lift(HEAD.format(nodes=nodes), opset)
    assert rewrite(before, fuse_operators)[1] == 0


def test_a_zero_divisor_stays():
    nodes = "m = Div(x, positive)\n y = Sub(m, shift)"
    before = lift(HEAD.format(nodes=nodes), positive=np.zeros((6, 1, 1)))
    assert rewrite(before, fuse_operators)[1] == 0


def test_a_size_that_is_not_known_stays():
    text = HEAD.format(nodes=LAYER + "y = Div(c, r)").replace("[N,6,S,8]", "[N,6,S,T]")
    assert rewrite(lift(text, 18), fuse_operators)[1] == 0


@pytest.mark.parametrize("follows", [True, False])
def test_what_is_quantized_later_keeps_its_last_bit(follows):
    tail = "q = QuantizeLinear(n, one)\n y = DequantizeLinear(q, one)" if follows else "y = Exp(n)\n " \
        "q = QuantizeLinear(x, one)\n z = DequantizeLinear(q, one)"  # fmt: skip
    text = HEAD.format(nodes=LAYER + "n = Div(c, r)\n " + tail)
    text = text if follows else text.replace("d] y)", "d] y, float[a,b,c,d] z)")
    assert rewrite(lift(text, 18), fuse_operators)[1] == (0 if follows else 1)


@pytest.mark.parametrize("step", ["Mul", "Div", "Add", "Sub"])
def test_a_batch_norm_without_an_axis_of_channels_stays(step):
    text = f"""g (float[N] x) => (float[a] y) <float[1] s, float[1] b, float[1] m, float[1] v = {{1.0}}, float k> {{
      n = BatchNormalization(x, s, b, m, v)
      y = {step}(n, k) }}"""
    before = lift(text)
    assert rewrite(before, fuse_operators)[1] == 0
    assert_same(before, before)
