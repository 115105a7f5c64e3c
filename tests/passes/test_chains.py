"""Constants in a row become one, and move into what follows; they stay where rounding would tell."""

import numpy as np
import pytest

from graphopt.passes.fold.affine_before import fold_affine_before
from graphopt.passes.fold.chains import fold_chains
from tests.passes.harness import assert_same, check, lift, ops, rewrite

ROWS = "g (float[N,4] x) => (float[a,b] y)"
IMAGE = "g (float[N,4,7,7] x) => (float[a,b,c,d] y)"
NORM = f"{IMAGE} <float[4] g, float[4] t, float[4] m, float[4] v, float[4,1,1] k, float s, float step = {{0.0078125}}>"
ROW = f"{ROWS} <float a = {{1.5}}, float b = {{-4.0}}, float[4] k = {{1.0, 2.0, 3.0, 4.0}}>"
JOINS = {
    "x a b": (f"{ROW} {{ p = Mul(x, a)\n y = Mul(p, k) }}", ["Mul"]),
    "a x / b": (f"{ROW} {{ p = Mul(a, x)\n y = Div(p, k) }}", ["Mul"]),
    "x + a + b": (f"{ROW} {{ p = Add(x, a)\n y = Add(p, k) }}", ["Add"]),
    "x - a - b": (f"{ROW} {{ p = Sub(x, a)\n y = Sub(p, k) }}", ["Add"]),
    "(x + a) b + c": (f"{ROW} {{ p = Add(x, a)\n q = Mul(p, k)\n y = Add(q, k) }}", ["Mul", "Add"]),
    "(x a + b) c": (f"{ROW} {{ p = Mul(x, a)\n q = Sub(p, k)\n y = Div(q, b) }}", ["Mul", "Add"]),
    "norm c": (f"{NORM} {{ n = BatchNormalization(x, g, t, m, v)\n y = Mul(n, k) }}", ["BatchNormalization"]),
    "norm c, quantized": (f"{NORM} {{ n = BatchNormalization(x, g, t, m, v)\n p = Mul(n, k)\n "
                          "q = QuantizeLinear(p, step)\n y = DequantizeLinear(q, step) }",
                          ["BatchNormalization", "QuantizeLinear", "DequantizeLinear"]),
    "norm c + d": (f"{NORM} {{ n = BatchNormalization(x, g, t, m, v)\n p = Div(n, s)\n y = Sub(p, k) }}",
                   ["BatchNormalization"]),
}  # fmt: skip
STAYS = {
    "a - x": f"{ROW} {{ p = Sub(a, x)\n y = Add(p, k) }}",
    "a / x": f"{ROW} {{ p = Div(a, x)\n y = Mul(p, k) }}",
    "terms that cancel": f"{ROWS} <float a = {{4.0}}, float b = {{-4.0}}> {{ p = Add(x, a)\n y = Add(p, b) }}",
    "extreme factors": f"{ROWS} <float a = {{1.0e20}}, float b = {{1.0e-20}}> {{ p = Mul(x, a)\n y = Mul(p, b) }}",
    "a table": f"{ROWS} <float[4,1] a, float[1,4] b> {{ p = Mul(x, a)\n y = Mul(p, b) }}",
    "integers": "g (int32[N,4] x) => (int32[a,b] y) <int32 a = {3}, int32 b = {5}> "
                "{ p = Div(x, a)\n y = Div(p, b) }",
    "a sum in use": f"{ROW} {{ p = Add(x, a)\n q = Add(p, k)\n y = Mul(p, q) }}",
    "a norm that trains": f"{NORM} {{ n, o, r = BatchNormalization<training_mode = 1>(x, g, t, m, v)\n "
                          "y = Mul(n, k) }",
}  # fmt: skip
LINEAR = f"{IMAGE} <float[6,4,3,3] w, float[6] b, float[4,1,1] k, float a = {{0.5}}, float c = {{-2.0}}, float[7] row>"
PADDED = "Conv<pads = [1, 1, 1, 1]>"
MOVES = {
    "W (c x)": (f"{LINEAR} {{ p = Mul(x, k)\n y = {PADDED}(p, w, b) }}", ["Conv"]),
    "W (x / c)": (f"{LINEAR} {{ p = Div(x, a)\n y = {PADDED}(p, w) }}", ["Conv"]),
    "W (x + c)": (f"{LINEAR} {{ p = Add(x, k)\n y = Conv(p, w, b) }}", ["Conv"]),
    "W (a x - c)": (f"{LINEAR} {{ p = Mul(x, k)\n q = Sub(p, c)\n y = Conv(q, w) }}", ["Conv"]),
    "W (a x + c) with padding": (f"{LINEAR} {{ p = Mul(x, a)\n q = Add(p, c)\n y = {PADDED}(q, w, b) }}",
                                 ["Add", "Conv"]),
    "W (a x + c) with padding, a channel": (f"{LINEAR} {{ p = Mul(x, a)\n q = Add(p, k)\n y = {PADDED}(q, w, b) }}",
                                            ["Add", "Conv"]),
}  # fmt: skip
KEEPS = {
    "a shift with padding": f"{LINEAR} {{ p = Add(x, k)\n y = {PADDED}(p, w, b) }}",
    "auto padding": f"{LINEAR} {{ p = Add(x, k)\n y = Conv<auto_pad = \"SAME_UPPER\">(p, w, b) }}",
    "a map of positions": f"{LINEAR} {{ p = Mul(x, row)\n y = Conv(p, w, b) }}",
    "c - x": f"{LINEAR} {{ p = Sub(k, x)\n y = Conv(p, w, b) }}",
    "channels that the constant makes": "g (float[N,1,7,7] x) => (float[a,b,c,d] y) <float[6,4,3,3] w, float[4,1,1] k> "
                                        "{ p = Mul(x, k)\n y = Conv(p, w) }",
    "a product in use": f"{LINEAR} {{ p = Mul(x, k)\n h = {PADDED}(p, w, b)\n q = ReduceMean(p)\n y = Add(h, q) }}",
}  # fmt: skip


@pytest.mark.parametrize("name", JOINS)
def test_constants_in_a_row_become_one(name):
    text, wanted = JOINS[name]
    before = lift(text, opset=15, v=np.array([0.5, 1, 2, 3]))
    after, _ = rewrite(before, fold_chains)
    assert ops(after) == wanted
    assert_same(before, after)


@pytest.mark.parametrize("name", STAYS)
def test_constants_in_a_row_stay(name):
    assert rewrite(lift(STAYS[name], opset=15), fold_chains)[1] == 0


@pytest.mark.parametrize("name", MOVES)
def test_constants_move_into_the_next_convolution(name):
    text, wanted = MOVES[name]
    before = lift(text)
    after, _ = rewrite(before, fold_affine_before)
    assert ops(after) == wanted
    assert_same(before, after, rtol=1e-4)


@pytest.mark.parametrize("name", KEEPS)
def test_constants_stay_before_a_convolution(name):
    assert rewrite(lift(KEEPS[name]), fold_affine_before)[1] == 0


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_convolutions_are_scaled_by_group(groups):
    text = f"""{IMAGE} <float[8,{4 // groups},3,3] w, float[4,1,1] k, float[4,1,1] m> {{ p = Mul(x, k)
      q = Add(p, m)
      y = Conv<group = {groups}>(q, w) }}"""
    before = lift(text)
    after, _ = rewrite(before, fold_affine_before)
    assert ops(after) == ["Conv"]
    assert_same(before, after, rtol=1e-4)


def test_text_of_joined_chains():
    assert check(JOINS["a x / b"][0], fold_chains).splitlines() == [
        "%y = Mul(%x, @1=f32[4](1.5, 0.75, 0.5, 0.375))",
        "return %y",
    ]
    assert check(JOINS["(x + a) b + c"][0], fold_chains).splitlines() == [
        "%2 = Mul(%x, @1=f32[4](1, 2, 3, 4))",
        "%y = Add(%2, @3=f32[4](2.5, 5, 7.5, 10))",
        "return %y",
    ]


def test_text_of_a_factor_and_a_shift_in_the_next_convolution():
    text = """g (float[N,2,3,3] x) => (float[a,b,c,d] y) <float[1,2,1,1] w = {2.0, 4.0}, float[2,1,1] k = {3.0, 0.5},
      float[2,1,1] m = {1.0, -1.0}> {
      p = Mul(x, k)
      q = Add(p, m)
      y = Conv(q, w) }"""
    assert check(text, fold_affine_before).splitlines() == [
        "%y = Conv(%x, @w=f32[1,2,1,1](6, 2), @2=f32[1](-2))",
        "return %y",
    ]
