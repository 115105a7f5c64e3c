"""Activations are recognised in every spelling, and left alone where the numbers are others."""

import numpy as np
import pytest

from graphopt.passes.fuse import fuse_for_onnxruntime, fuse_operators, onnxruntime, operators
from graphopt.passes.fuse.evidence import FLOOR, MEASURED
from graphopt.passes.fuse.gelu import fuse_scaled_swish, fuse_swish
from graphopt.passes.fuse.piecewise import fuse_prelu
from graphopt.pipeline.passes import rule_pass
from tests.passes.harness import assert_same, lift, ops, rewrite

HEAD = """g (float[N,3,C] x) => (float[a,b,c] y) <float one = {{1.0}}, float two = {{2.0}}, float three = {{3.0}},
  float six = {{6.0}}, float sixth = {{0.16666667}}, float half = {{0.5}}, float zero = {{0.0}},
  float[1,1] root = {{1.4142135}}, float rroot = {{0.70710678}}, float slope = {{0.7978845608}},
  float cubic = {{0.044715}}, float quick = {{1.702}},
  float tenth = {{0.1}}, float[3,1] each> {{ {nodes}
}}"""
ERF = "d = Div(x, root)\n e = Erf(d)\n s = Add(e, one)\n "
FUSES = {
    "gelu": (ERF + "h = Mul(x, s)\n y = Mul(h, half)", 20, ["Gelu"]),
    "gelu, half first": (ERF + "h = Mul(half, x)\n y = Mul(s, h)", 20, ["Gelu"]),
    "gelu, half inside": (ERF + "h = Mul(s, half)\n y = Mul(x, h)", 20, ["Gelu"]),
    "gelu, halved erf": ("d = Mul(rroot, x)\n e = Erf(d)\n m = Mul(half, e)\n h = Add(half, m)\n y = Mul(h, x)", 20,
                         ["Gelu"]),
    "gelu, by division": (ERF + "h = Mul(x, s)\n y = Div(h, two)", 20, ["Gelu"]),
    "tanh gelu, Pow": ("p = Pow(x, three)\n k = Mul(p, cubic)\n i = Add(x, k)\n j = Mul(i, slope)\n t = Tanh(j)\n "
                       "s = Add(t, one)\n h = Mul(x, half)\n y = Mul(h, s)", 20, ["Gelu"]),
    "tanh gelu, products": ("p = Mul(x, x)\n q = Mul(p, x)\n k = Mul(cubic, q)\n i = Add(k, x)\n j = Mul(slope, i)\n "
                            "t = Tanh(j)\n s = Add(one, t)\n h = Mul(half, s)\n y = Mul(h, x)", 20, ["Gelu"]),
    "tanh gelu, jax": ("p = Mul(cubic, x)\n q = Mul(x, p)\n k = Mul(x, q)\n i = Add(k, x)\n j = Mul(slope, i)\n "
                       "t = Tanh(j)\n s = Add(one, t)\n h = Mul(half, s)\n y = Mul(h, x)", 20, ["Gelu"]),
    "tanh gelu, factored": ("p = Mul(x, cubic)\n q = Mul(p, x)\n k = Add(q, one)\n i = Mul(x, slope)\n j = Mul(i, k)\n "
                            "t = Tanh(j)\n s = Add(one, t)\n h = Mul(x, half)\n y = Mul(h, s)", 20, ["Gelu"]),
    "hard sigmoid": ("s = Add(x, three)\n c = Clip(s, zero, six)\n y = Div(c, six)", 13, ["HardSigmoid"]),
    "hard sigmoid, product": ("s = Add(three, x)\n c = Clip(s, zero, six)\n y = Mul(sixth, c)", 13, ["HardSigmoid"]),
    "hard swish": ("s = Add(x, three)\n c = Clip(s, zero, six)\n m = Mul(c, x)\n y = Div(m, six)", 14, ["HardSwish"]),
    "hard swish, gate first": ("s = Add(x, three)\n c = Clip(s, zero, six)\n m = Div(c, six)\n y = Mul(m, x)", 14,
                               ["HardSwish"]),
    "hard swish below its opset": ("s = Add(x, three)\n c = Clip(s, zero, six)\n m = Mul(c, x)\n y = Div(m, six)", 13,
                                   ["HardSigmoid", "Mul"]),
    "mish": ("p = Softplus(x)\n t = Tanh(p)\n y = Mul(t, x)", 18, ["Mish"]),
    "sigmoid": ("n = Neg(x)\n e = Exp(n)\n s = Add(one, e)\n y = Div(one, s)", 13, ["Sigmoid"]),
    "sigmoid, reciprocal": ("n = Neg(x)\n e = Exp(n)\n s = Add(e, one)\n y = Reciprocal(s)", 13, ["Sigmoid"]),
    "leaky relu, maximum": ("m = Mul(x, tenth)\n y = Max(m, x)", 13, ["LeakyRelu"]),
    "leaky relu, choice": ("m = Mul(tenth, x)\n c = Greater(x, zero)\n y = Where(c, x, m)", 16, ["LeakyRelu"]),
    "leaky relu, other choice": ("m = Mul(six, x)\n c = Less(x, zero)\n y = Where(c, m, x)", 16, ["LeakyRelu"]),
    "leaky relu, sum": ("r = Relu(x)\n n = Neg(x)\n q = Relu(n)\n f = Neg(q)\n m = Mul(tenth, f)\n y = Add(r, m)", 13,
                        ["LeakyRelu"]),
    "leaky relu, difference": ("r = Relu(x)\n n = Neg(x)\n q = Relu(n)\n m = Mul(tenth, q)\n y = Sub(r, m)", 13,
                               ["LeakyRelu"]),
    "relu6": ("r = Relu(x)\n y = Min(r, six)", 13, ["Clip"]),
    "clip after relu": ("r = Relu(x)\n y = Clip(r, , six)", 13, ["Clip"]),
    "relu after clip": ("r = Clip(x, , six)\n y = Relu(r)", 13, ["Clip"]),
    "clip of extremes": ("r = Max(x, zero)\n y = Min(r, six)", 13, ["Clip"]),
    "clip of extremes, other order": ("r = Min(six, x)\n y = Max(zero, r)", 13, ["Clip"]),
}  # fmt: skip
STAYS = {
    "gelu of another width": ("d = Div(x, two)\n e = Erf(d)\n s = Add(e, one)\n h = Mul(x, s)\n y = Mul(h, half)", 20),
    "gelu, constant divided": ("d = Div(root, x)\n e = Erf(d)\n s = Add(e, one)\n h = Mul(x, s)\n y = Mul(h, half)",
                               20),
    "gelu below its opset": (ERF + "h = Mul(x, s)\n y = Mul(h, half)", 17),
    "gelu of another value": ("q = Exp(x)\n d = Div(q, root)\n e = Erf(d)\n s = Add(e, one)\n h = Mul(x, s)\n "
                              "y = Mul(h, half)", 20),
    "swish, which onnxruntime expands": ("s = Sigmoid(x)\n y = Mul(s, x)", 24),
    "prelu, which onnxruntime does slowly": ("r = Relu(x)\n n = Neg(x)\n q = Relu(n)\n m = Mul(each, q)\n "
                                             "y = Sub(r, m)", 13),
    "line of another height": ("s = Add(x, three)\n c = Clip(s, zero, six)\n y = Div(c, two)", 13),
    "line not from zero": ("s = Add(x, three)\n c = Clip(s, one, six)\n y = Div(c, six)", 13),
    "mish below its opset": ("p = Softplus(x)\n t = Tanh(p)\n y = Mul(t, x)", 17),
    "sigmoid of x": ("e = Exp(x)\n s = Add(one, e)\n y = Div(one, s)", 13),
    "maximum with a steep line": ("m = Mul(x, two)\n y = Max(m, x)", 13),
    "choice the other way": ("m = Mul(tenth, x)\n c = Less(x, zero)\n y = Where(c, x, m)", 16),
    "limits apart": ("r = Max(x, six)\n y = Min(r, one)", 13),
}  # fmt: skip
USED = ("hard swish", "mish", "sigmoid", "gelu", "relu6", "leaky relu, choice")


@pytest.mark.parametrize("name", FUSES)
def test_activations_are_recognised(name):
    nodes, opset, wanted = FUSES[name]
    before = lift(HEAD.format(nodes=nodes), opset)
    after, _ = rewrite(before, fuse_operators)
    assert ops(after) == wanted
    assert_same(before, after)


@pytest.mark.parametrize("name", STAYS)
def test_other_arithmetic_stays(name):
    nodes, opset = STAYS[name]
    before = lift(HEAD.format(nodes=nodes), opset)
    after, changes = rewrite(before, fuse_operators)
    assert changes == 0 and ops(after) == ops(before)


@pytest.mark.parametrize("name", USED)
def test_an_inner_value_in_use_elsewhere_stays(name):
    nodes, opset, _ = FUSES[name]
    first = nodes.partition(" ")[0]
    inner = nodes.splitlines()[-2].strip().partition(" ")[0]
    text = HEAD.format(nodes=nodes).replace("(float[a,b,c] y)", f"(float[a,b,c] y, ty {inner})")
    text = text.replace("ty ", "bool[d,e,f] " if inner == "c" and "Where" in nodes else "float[d,e,f] ")
    assert first and rewrite(lift(text, opset), fuse_operators)[1] == 0


@pytest.mark.parametrize("dtype, fuses", [("float", True), ("float16", False)])
def test_a_product_that_may_overflow_in_half_precision_stays(dtype, fuses):
    nodes, opset, wanted = FUSES["hard swish"]
    text = f"g ({dtype}[N] x) => ({dtype}[a] y) <{dtype} zero, {dtype} three, {dtype} six> {{ {nodes} }}"
    before = lift(text, opset, zero=np.array(0), three=np.array(3), six=np.array(6))
    after, _ = rewrite(before, fuse_operators)
    assert ops(after) == (wanted if fuses else ops(before))
    assert_same(before, after, rtol=1e-5 if fuses else 1e-3)


def test_a_constant_that_adds_an_axis_stays():
    nodes = "s = Add(x, three)\n c = Clip(s, zero, six)\n y = Div(c, wide)"
    text = HEAD.format(nodes=nodes).replace("float zero", "float[1,1,1,1] wide = {6.0}, float zero")
    assert rewrite(lift(text.replace("float[a,b,c]", "float[a,b,c,d]")), fuse_operators)[1] == 0


@pytest.mark.parametrize("name", ["sigmoid", "leaky relu, choice"])
def test_double_precision_fuses_where_the_runtime_has_it(name):
    nodes, opset, _ = FUSES[name]
    before = lift(HEAD.format(nodes=nodes).replace("float", "double"), opset)
    after, _ = rewrite(before, fuse_operators)
    assert_same(before, after)


def test_old_clip_has_its_limits_as_attributes():
    nodes = "s = Add(x, three)\n c = Clip<min = 0.0, max = 6.0>(s)\n y = Div(c, six)"
    before = lift(HEAD.format(nodes=nodes), 10)
    after, _ = rewrite(before, fuse_operators)
    assert ops(after) == ["HardSigmoid"]
    assert_same(before, after)


SWISH = {
    "swish": "s = Sigmoid(x)\n y = Mul(s, x)",
    "scaled swish": "d = Mul(x, quick)\n s = Sigmoid(d)\n y = Mul(s, x)",
}
CONTRIB = {
    "Gelu": FUSES["gelu"][0], "FastGelu": FUSES["tanh gelu, Pow"][0], "QuickGelu": SWISH["scaled swish"],
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRIB)
def test_onnxruntime_has_gelu_below_opset_20(name):
    before = lift(HEAD.format(nodes=CONTRIB[name]), 17)
    after, _ = rewrite(before, fuse_operators, target="onnxruntime")
    assert ops(after) == [f"com.microsoft::{name}"]
    assert_same(before, after)


@pytest.mark.parametrize("name", SWISH)
def test_swish_and_prelu_are_right_where_they_would_be_used(name):
    for rules, nodes, opset in (
        ((fuse_swish, fuse_scaled_swish), SWISH[name], 24),
        (fuse_prelu, "r = Relu(x)\n n = Neg(x)\n q = Relu(n)\n m = Mul(each, q)\n y = Sub(r, m)", 13),
    ):
        before = lift(HEAD.format(nodes=nodes), opset)
        after, changes = rewrite(before, rule_pass("alone", *rules))
        assert changes == 1
        assert_same(before, after)


def test_every_rule_was_measured():
    used = {rule.name for rule in (*operators.RULES, *onnxruntime.RULES)}
    assert used | {"projections_into_attention"} == set(MEASURED)
    slow = {name for name, ratios in MEASURED.items() if all(r is None or r < FLOOR for r in ratios)}
    assert slow
    assert not slow & {rule.name for rule in (*fuse_operators.rules, *fuse_for_onnxruntime.rules)}
