"""LRN by roots: equal within rounding, for the powers that roots make."""

import pytest

from graphopt.passes.convert.roots import spell_powers
from tests.passes.harness import assert_same, check, lift, ops, rewrite

HEAD = "g (float[N,7,5,6] x) => (float[a,b,c,d] y) {{ y = LRN<size = {size}{rest}>(x) }}"


def test_text_of_roots():
    assert check(HEAD.format(size=5, rest=", alpha = 0.5, bias = 2.0"), spell_powers).splitlines() == [
        "%1 = Mul(%x, %x)",
        "%3 = Unsqueeze(%1, @2=i64[1](1))",
        "%4 = AveragePool(%3) {count_include_pad=1, kernel_shape=[5, 1, 1], pads=[2, 0, 0, 2, 0, 0]}",
        "%6 = Squeeze(%4, @5=i64[1](1))",
        "%8 = Mul(%6, @7=f32[](0.5))",
        "%10 = Add(%8, @9=f32[](2))",
        "%11 = Sqrt(%10)",
        "%12 = Sqrt(%11)",
        "%13 = Mul(%11, %12)",
        "%y = Div(%x, %13)",
        "return %y",
    ]


@pytest.mark.parametrize("size", [1, 3, 5, 9])
@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75, 1.0])
def test_roots_equal_powers(size, beta):
    before = lift(HEAD.format(size=size, rest=f", alpha = 0.7, beta = {beta}, bias = 0.3"))
    after, changes = rewrite(before, spell_powers)
    assert changes == 1 and "LRN" not in ops(after)
    assert_same(before, after, rtol=3e-6)


STAYS = {
    "another power": "beta = 0.6",
    "a bias of zero": "bias = 0.0",
    "what may be negative": "alpha = -1.0",
}


@pytest.mark.parametrize("name", STAYS)
def test_others_stay(name):
    assert rewrite(lift(HEAD.format(size=3, rest=f", {STAYS[name]}")), spell_powers)[1] == 0


def test_an_even_window_and_more_axes_stay():
    assert rewrite(lift(HEAD.format(size=4, rest="")), spell_powers)[1] == 0
    text = "g (float[1,4,2,3,5] x) => (float[a,b,c,d,e] y) { y = LRN<size = 3>(x) }"
    assert rewrite(lift(text), spell_powers)[1] == 0
