"""Operators that do nothing: each drops where it must, and stays where it does something."""

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.passes import drop_identities, resolve_shapes
from tests.passes.harness import assert_same, lift, ops, outputs, rewrite

NOTHING = {
    "Identity": "i = Identity(a)",
    "Dropout": "i, m = Dropout(a)",
    "Cast": "i = Cast<to = 1>(a)",
    "CastLike": "i = CastLike(a, f)",
    "Transpose": "i = Transpose<perm = [0, 1, 2]>(a)",
    "Reshape to known sizes": "i = Reshape(a, s)",
    "Reshape by zeros": "i = Reshape(a, zeros)",
    "Slice": "i = Slice(a, k0, end)",
    "Slice to the size": "i = Slice(a, k0, k6, k2)",
    "Pad": "i = Pad(a, pads)",
    "Concat": "i = Concat<axis = 1>(a)",
    "Concat with empty operands": "e = Slice(a, k0, k0, k2)\n i = Concat<axis = -1>(e, a, e)",
    "Split": "i = Split<axis = 2>(a)",
    "Expand": "i = Expand(a, k1)",
    "Expand to its size": "i = Expand(a, tail)",
    "Unsqueeze": "i = Unsqueeze(a, none)",
    "Tile": "i = Tile(a, ones3)",
    "Clip": "i = Clip(a)",
    "MaxPool": "i = MaxPool<kernel_shape = [1]>(a)",
    "Resize": 'i = Resize<mode = "linear">(a, , fones)',
    "Sum": "i = Sum(a)",
    "Max": "i = Max(a)",
    "Add": "i = Add(f, a)",
    "Sub": "i = Sub(a, f)",
    "Mul": "i = Mul(a, g)",
    "Mul by a vector": "i = Mul(gs, a)",
    "Div": "i = Div(a, g)",
    "Pow": "i = Pow(a, g)",
    "And": "b = Cast<to = 9>(a)\n c = And(b, t)\n i = Cast<to = 1>(c)",
    "ReduceMean": "i = ReduceMean<axes = [1]>(a)",
    "ReduceSum": "i = ReduceSum(a, k1)",
    "Where": "i = Where(t, a, k)",
}
SOMETHING = {
    "Dropout in training": "i = Dropout(a, g, t)",
    "Dropout whose mask is used": "i0, m = Dropout(a)\n mf = Cast<to = 1>(m)\n i = Add(i0, mf)",
    "Cast": "i0 = Cast<to = 10>(a)\n i = Cast<to = 1>(i0)",
    "Transpose": "i = Transpose<perm = [2, 1, 0]>(a)",
    "Concat with an operand more": "e = Slice(a, k0, k1, k2)\n i = Concat<axis = -1>(e, a)",
    "Reshape": "i = Reshape(a, other)",
    "Slice": "i = Slice(a, k0, k5, k2)",
    "Slice from 1": "i = Slice(a, k1, end)",
    "Slice backwards": "i = Slice(a, kback, kmin, k2, kback)",
    "Pad": "i = Pad(a, pads1)",
    "MaxPool of what was padded": "p = Pad(a, pads1, down)\n i = MaxPool<kernel_shape = [1]>(p)",
    "Expand": "i = Expand(a, wide)",
    "Add that broadcasts": "i = Add(a, zeros4)",
    "Mul by ones of more axes": "i = Mul(a, more)",
    "Add one": "i = Add(a, g)",
    "One less x": "i = Sub(f, a)",
    "One by x": "i = Div(g, a)",
    "ReduceSum": "i = ReduceSum(a, k2)",
    "Reduction that drops its axis": "i = ReduceMean<axes = [1], keepdims = 0>(a)",
    "Resize": 'i = Resize<mode = "linear">(a, , ftwos)',
    "Where that broadcasts": "i = Where(t, f, a)",
}
TEXT = """
g (float[2,1,6] x) => (float[u,v,w] y) <
  int64[3] s = {{2, 1, 6}}, int64[3] zeros = {{0, 0, -1}}, int64[1] k0 = {{0}}, int64[1] k1 = {{1}},
  int64[1] k2 = {{2}},
  int64[1] k5 = {{5}}, int64[1] k6 = {{6}}, int64[1] end = {{9223372036854775807}}, int64[6] pads = {{0,0,0,0,0,0}},
  int64[6] pads1 = {{0,0,1,0,0,0}}, int64[0] none, int64[3] ones3 = {{1,1,1}}, float[3] fones = {{1.0,1.0,1.0}},
  float[3] ftwos = {{1.0,1.0,2.0}}, float f = {{0.0}}, float g = {{1.0}}, float[6] gs = {{1.0,1.0,1.0,1.0,1.0,1.0}},
  bool t = {{1}}, float[2,1,6] k, int64[2] tail = {{1, 6}}, int64[3] other = {{1, 2, 6}}, int64[1] kback = {{-1}},
  int64[1] kmin = {{-9223372036854775807}}, int64[3] wide = {{2, 3, 6}}, float[1,4,1] zeros4 = {{0.0,0.0,0.0,0.0}},
  float down = {{-inf}}, float[1,1,1,6] more = {{1.0,1.0,1.0,1.0,1.0,1.0}}
> {{
  a = Relu(x)
  {node}
  y = Exp(i)
}}"""


@pytest.mark.parametrize("name", NOTHING)
def test_what_does_nothing_goes(name):
    before = lift(TEXT.format(node=NOTHING[name]), opset=17)
    after, changes = rewrite(before, drop_identities)
    assert changes == 1
    assert_same(before, after)
    kept = {"And": ["Cast", "Cast"], "Concat with empty operands": ["Slice"]}.get(name, [])
    assert ops(after) == ["Relu", *kept, "Exp"]


@pytest.mark.parametrize("name", SOMETHING)
def test_what_does_something_stays(name):
    before = lift(TEXT.format(node=SOMETHING[name]), opset=17)
    assert rewrite(before, drop_identities)[1] == 0


def test_identities_that_only_name_a_result_stay():
    before = lift("g (float[4] x) => (float[4] y, float[4] z) { y = Identity(x)\n a = Exp(x)\n z = Identity(a) }")
    after, changes = rewrite(before, drop_identities)
    assert (changes, ops(after)) == (1, ["Identity", "Exp"])
    assert after.graph.ports == before.graph.ports
    assert_same(before, after, rtol=0)


def test_same_dims_of_unknown_size_are_kept_only_where_one_may_differ():
    text = "g (float[N,M,4] x) => (float[a,b,c] y) <int64[3] s> {{ a = Relu(x)\n i = Reshape(a, s)\n y = Exp(i) }}"
    before = lift(text.replace("{{", "{").replace("}}", "}"), s=np.array([0, -1, 4]))
    assert rewrite(before, drop_identities)[1] == 1
    before = lift(text.replace("{{", "{").replace("}}", "}"), s=np.array([2, -1, 4]))
    assert rewrite(before, drop_identities)[1] == 0
    before = lift(text.replace("{{", "{").replace("}}", "}"), s=np.array([0, 4, -1]))
    assert rewrite(before, drop_identities)[1] == 0


@pytest.mark.parametrize("sizes, changes", [([5, 0, 3], 0), ([0, 5, 3], 0), ([-1, 0, 3], 1), ([0, 0, 3], 1)])
def test_a_size_that_is_given_follows_from_the_others_only_where_none_of_them_may_be_0(sizes, changes):
    text = "g (float[A,B,3] x) => (float[a,b,c] y) <int64[3] s> { h = Relu(x)\n i = Reshape(h, s)\n y = Exp(i) }"
    before = lift(text, s=np.array(sizes))
    after, made = rewrite(before, drop_identities)
    assert made == changes
    if 5 in sizes:
        empty = {"x": np.zeros([4 if size == 5 else size for size in sizes], np.float32)}
        assert outputs(onnx_io.to_proto(after), empty)[0].shape == tuple(sizes)


ZEROS = """g (float[4] x, float[4] z) => (float[a] y)
  <float plus = {0.0}, float minus, float one = {1.0}, float two = {2.0}> """
TELLS = {
    "a denominator": "s = Add(x, plus)\n y = Div(one, s)",
    "Reciprocal": "s = Sub(x, minus)\n y = Reciprocal(s)",
    "behind others": "s = Add(x, plus)\n m = Mul(s, two)\n r = Sqrt(m)\n t = Add(r, z)\n y = Div(one, t)",
    "an exponent that is fed": "s = Add(x, plus)\n y = Pow(s, z)",
}
SILENT = {
    "the other zero": ("s = Add(x, minus)\n y = Div(one, s)", True),
    "a zero taken off": ("s = Sub(x, plus)\n y = Div(one, s)", True),
    "a numerator": ("s = Add(x, plus)\n y = Div(s, two)", False),
    "a denominator above zero": ("s = Add(x, plus)\n p = Pow(s, two)\n e = Add(p, one)\n y = Div(one, e)", True),
    "a denominator of exponentials": ("s = Add(x, plus)\n e = Exp(s)\n y = Div(one, e)", True),
    "the result": ("y = Add(x, plus)\n", False),
}


@pytest.mark.parametrize("nodes", TELLS.values(), ids=TELLS)
def test_a_zero_is_added_where_the_sign_of_zero_tells(nodes):
    before = lift(ZEROS + "{ h = Neg(x)\n " + nodes.replace("(x", "(h") + " }", minus=np.array(-0.0))
    assert rewrite(before, drop_identities)[1] == 0


@pytest.mark.parametrize("nodes, bits", SILENT.values(), ids=SILENT)
def test_a_zero_is_not_added_elsewhere(nodes, bits):
    text = ZEROS + "{ h = Neg(x)\n " + nodes.replace("(x", "(h").replace("y = ", "q = ") + "\n y = Identity(q) }"
    before = lift(text, minus=np.array(-0.0))
    after, changes = rewrite(before, drop_identities)
    assert changes >= 1 and ops(after)[1:2] not in (["Add"], ["Sub"])
    feeds = {"x": np.array([0.0, -0.0, 1.0, -2.0], np.float32), "z": np.full(4, -0.0, np.float32)}
    a, b = (outputs(onnx_io.to_proto(model), feeds)[0] for model in (before, after))
    assert np.array_equal(a, b) and (not bits or np.array_equal(a.view(np.int32), b.view(np.int32)))


def test_old_dropout_trains_unless_told_otherwise():
    text = "g (float[4] x) => (float[4] y) {{ a = Relu(x)\n b = Dropout{attrs}(a)\n y = Relu(b) }}"
    assert rewrite(lift(text.format(attrs=""), opset=6), drop_identities)[1] == 0
    assert rewrite(lift(text.format(attrs="<is_test = 1>"), opset=6), drop_identities)[1] == 1


def test_casts_behind_operators_that_onnx_leaves_untyped_are_dropped():
    text = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
    g (float[N,4] x) => (float[a,b] y) {
      s = ai.onnx.ml.Scaler<offset = [1.0, 2.0, 3.0, 4.0], scale = [2.0, 2.0, 0.5, 1.0]>(x)
      c = Cast<to = 1>(s)
      y = Exp(c) }"""
    before = lift(text)
    after, _ = rewrite(before, resolve_shapes, drop_identities)
    assert ops(after) == ["ai.onnx.ml::Scaler", "Exp"]
    assert_same(before, after, rtol=0)
