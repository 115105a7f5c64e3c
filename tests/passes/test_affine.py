"""Constants move into linear operators, branches that are known are inlined."""

import numpy as np
import pytest

from graphopt.passes.control.branches import inline_branches
from graphopt.passes.fold.affine import fold_affine
from tests.passes.harness import assert_same, check, lift, ops, rewrite

IMAGE = "g (float[N,4,7,7] x) => (float[a,b,c,d] y)"
ROWS = "g (float[N,4] x) => (float[a,b] y)"
FOLDS = {
    "Conv + c": f"{IMAGE} <float[6,4,3,3] w, float[1,6,1,1] k> {{ h = Conv(x, w)\n y = Add(k, h) }}",
    "Conv - c": f"{IMAGE} <float[6,4,3,3] w, float[6] b, float[6,1,1] k> {{ h = Conv(x, w, b)\n y = Sub(h, k) }}",
    "Conv c": f"{IMAGE} <float[6,4,3,3] w, float[6] b, float k> {{ h = Conv(x, w, b)\n y = Mul(h, k) }}",
    "ConvTranspose / c": f"{IMAGE} <float[4,3,3,3] w, float[6,1,1] k> {{ h = ConvTranspose<group = 2>(x, w)\n "
                         "y = Div(h, k) }",
    "Gemm + c": f"{ROWS} <float[4,6] w, float[6] b, float[1,6] k> {{ h = Gemm<beta = 2.0>(x, w, b)\n y = Add(h, k) }}",
    "Gemm c": f"{ROWS} <float[6,4] w, float[6] b, float[6] k> {{ h = Gemm<transB = 1, beta = 2.0>(x, w, b)\n "
              "y = Mul(h, k) }",
    "MatMul + c": f"{ROWS} <float[4,6] w, float[6] k> {{ h = MatMul(x, w)\n y = Add(h, k) }}",
    "MatMul / c": "g (float[N,3,4] x) => (float[a,b,c] y) <float[4,6] w, float[6] k> { h = MatMul(x, w)\n "
                  "y = Div(h, k) }",
}  # fmt: skip
STAYS = {
    "c - Conv": f"{IMAGE} <float[6,4,3,3] w, float[6,1,1] k> {{ h = Conv(x, w)\n y = Sub(k, h) }}",
    "c / Conv": f"{IMAGE} <float[6,4,3,3] w, float[6,1,1] k> {{ h = Conv(x, w)\n y = Div(k, h) }}",
    "a map of positions": f"{IMAGE} <float[6,4,3,3] w, float[5,5] k> {{ h = Conv(x, w)\n y = Add(h, k) }}",
    "an axis more": "g (float[1,4,7,7] x) => (float[a,b,c,d,e] y) <float[6,4,3,3] w, float[1,1,6,1,1] k> "
                    "{ h = Conv(x, w)\n y = Add(h, k) }",
    "one channel that widens": f"{IMAGE} <float[1,4,3,3] w, float[6,1,1] k> {{ h = Conv(x, w)\n y = Add(h, k) }}",
    "half precision": "g (float16[N,4,7,7] x) => (float16[a,b,c,d] y) <float16[6,4,3,3] w, float16[6,1,1] k> "
                      "{ h = Conv(x, w)\n y = Add(h, k) }",
    "integers": "g (int32[N,4] x) => (int32[a,b] y) <int32[4,6] w, int32[6] k> { h = MatMul(x, w)\n y = Add(h, k) }",
    "a sum that may widen": "g (float[N,4] x, float[M,6] k) => (float[a,b] y) <float[4,6] w> "
                            "{ h = MatMul(x, w)\n y = Add(h, k) }",
    "an outside user": f"{IMAGE.replace('d] y', 'd] y, float[e,f,i,j] h')} <float[6,4,3,3] w, float k> "
                       "{ h = Conv(x, w)\n y = Add(h, k) }",
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_constants_move_into_linear_operators(name):
    before = lift(FOLDS[name])
    after, changes = rewrite(before, fold_affine)
    assert (changes, len(ops(after))) == (1, 1)
    assert_same(before, after, rtol=1e-4)


@pytest.mark.parametrize("name", STAYS)
def test_constants_stay_where_moving_them_is_not_exact(name):
    assert rewrite(lift(STAYS[name]), fold_affine)[1] == 0


LINE = "g (float[N,4,1,7] x) => (float[a,b,c] y)"
SQUEEZED = {
    "bias and Relu": "<float[6,4,1,3] w, float[6,1] k> { h = Conv(x, w)\n s = Squeeze(h, two)\n a = Add(k, s)\n "
                     "y = Relu(a) }",
    "scale, shift and Clip": "<float[6,4,1,3] w, float[6] b, float[1,6,1] k, float l, float m> { h = Conv(x, w, b)\n "
                             "s = Squeeze(h, last)\n a = Div(s, k)\n d = Sub(a, l)\n y = Clip(d, m) }",
}  # fmt: skip
SQUEEZED_STAYS = {
    "c - Conv": "<float[6,4,1,3] w, float[6,1] k> { h = Conv(x, w)\n s = Squeeze(h, two)\n y = Sub(k, s) }",
    "an axis more": "<float[6,4,1,3] w, float[1,1,6,1] k> { h = Conv(x, w)\n s = Squeeze(h, two)\n y = Add(k, s) }",
    "no convolution": "<float[6,1] k> { s = Squeeze(x, two)\n h = Add(s, s)\n y = Relu(h) }",
    "an outside user": "<float[6,4,1,3] w> { h = Conv(x, w)\n s = Squeeze(h, two)\n r = Relu(s)\n "
                       "t = ReduceMax<keepdims = 0>(h, two)\n y = Add(r, t) }",
}  # fmt: skip
AXES = {"two": np.array([2]), "last": np.array([-2])}


@pytest.mark.parametrize("name", SQUEEZED)
def test_what_follows_a_squeezed_convolution_comes_before_the_squeeze(name):
    text = f"{LINE} {SQUEEZED[name].replace('<', '<int64[1] two, int64[1] last, ', 1)}"
    before = lift(text, **AXES)
    after, _ = rewrite(before, fold_affine)
    assert ops(after) == ["Conv", "Clip" if "Clip" in name else "Relu", "Squeeze"]
    assert_same(before, after, rtol=1e-4)


@pytest.mark.parametrize("name", SQUEEZED_STAYS)
def test_what_a_squeeze_must_precede_stays(name):
    text = f"{LINE} {SQUEEZED_STAYS[name].replace('<', '<int64[1] two, ', 1)}"
    assert rewrite(lift(text, two=AXES["two"]), fold_affine)[1] == 0


def test_a_constant_that_widens_a_squeezed_convolution_stays():
    net = "<int64[1] two, float[1,4,1,3] w, float[6,1] k> { h = Conv(x, w)\n s = Squeeze(h, two)\n y = Add(s, k) }"
    before = lift(f"{LINE} {net}", two=AXES["two"])
    assert_same(before, rewrite(before, fold_affine)[0], rtol=1e-4)


def test_division_by_zero_stays():
    text = f"{IMAGE} <float[6,4,3,3] w, float k> {{ h = Conv(x, w)\n y = Div(h, k) }}"
    assert rewrite(lift(text, k=np.float32(0)), fold_affine)[1] == 0


NESTED = """
g (float[4] x, bool d) => (float[4] y, float[4] z) <bool c> {
  a = Exp(x)
  y, z = If(c) <
    then_branch = p () => (float[4] p1, float[4] p2) { p1 = If(c) <
        then_branch = r () => (float[4] r1) { r1 = Sqrt(a) },
        else_branch = s () => (float[4] s1) { s1 = Neg(a) }
      >
      p2 = If(d) <
        then_branch = t () => (float[4] t1) { t1 = Sin(p1) },
        else_branch = u () => (float[4] u1) { u1 = Identity(a) }
      > },
    else_branch = q () => (float[4] q1, float[4] q2) { q1 = Cos(x)
      q2 = Relu(x) }
  >
}"""


@pytest.mark.parametrize("taken", [True, False])
def test_branches_that_are_known_are_inlined(taken):
    before = lift(NESTED, c=np.array(taken))
    after, changes = rewrite(before, inline_branches)
    assert changes == (2 if taken else 1)
    assert ops(after) == (["Exp", "Sqrt", "If", "Sin", "Identity"] if taken else ["Exp", "Cos", "Relu"])
    assert_same(before, after)


def test_text_of_a_constant_in_a_convolution():
    text = """g (float[N,2,3,3] x) => (float[a,b,c,d] y) <float[1,2,1,1] w = {2.0, 4.0}, float[1] b = {1.0},
      float k = {0.5}> { h = Conv(x, w, b)
      y = Mul(h, k) }"""
    assert check(text, fold_affine).splitlines() == [
        "%y = Conv(%x, @w=f32[1,2,1,1](1, 2), @2=f32[1](0.5))",
        "return %y",
    ]
