"""Pads of zeros move into convolutions and pools; other pads stay."""

import pytest

from graphopt.passes.fold.pads import fold_pads
from tests.passes.harness import assert_same, check, lift, ops, rewrite

HEAD = """g (float[N,4,7,8] x) => (float[a,b,c,d] y) <float[6,4,3,3] w, float[6] k, int64[8] p = {{0,0,1,0,0,0,2,1}},
  int64[8] far = {{0,0,3,0,0,0,0,0}}, int64[8] deep = {{0,1,0,0,0,0,0,0}}, int64[8] cut = {{0,0,-1,0,0,0,0,0}},
  float zero = {{0.0}}, float two = {{2.0}}, float one = {{1.0}}, float low = {{-3.4028235e38}}> {{ r = Relu(x)
  {nodes}
}}"""
MOVES = {
    "Conv": "q = Pad(x, p)\n y = Conv(q, w, k)",
    "Conv with pads": "q = Pad(x, p, zero)\n y = Conv<pads = [1, 0, 0, 2], strides = [2, 1]>(q, w)",
    "Conv with far pads": "q = Pad(x, far)\n y = Conv(q, w)",
    "AveragePool": "q = Pad(x, p)\n y = AveragePool<kernel_shape = [3, 3], strides = [2, 2]>(q)",
    "MaxPool after Relu": "q = Pad(r, p)\n y = MaxPool<kernel_shape = [3, 2]>(q)",
    "MaxPool of a quotient": "t = Div(x, two)\n o = Relu(t)\n q = Pad(o, p)\n y = MaxPool<kernel_shape = [3, 2]>(q)",
    "MaxPool of the lowest": "q = Pad(x, p, low)\n y = MaxPool<kernel_shape = [3, 2]>(q)",
}
STAYS = {
    "ones": "q = Pad(x, p, one)\n y = Conv(q, w)",
    "a reflection": 'q = Pad<mode = "reflect">(x, p)\n y = Conv(q, w)',
    "channels": "q = Pad(x, deep)\n y = AveragePool<kernel_shape = [2, 2]>(q)",
    "a cut": "q = Pad(x, cut)\n y = Conv(q, w)",
    "automatic pads": 'q = Pad(x, p)\n y = Conv<auto_pad = "SAME_UPPER">(q, w)',
    "a maximum that may be below zero": "q = Pad(x, p)\n y = MaxPool<kernel_shape = [3, 2]>(q)",
    "shares of a row that a mask shuts out": "m = Softmax(x)\n q = Pad(m, p)\n y = MaxPool<kernel_shape = [3, 2]>(q)",
    "a logarithm that may be NaN": "m = Log(x)\n o = Relu(m)\n q = Pad(o, p)\n y = MaxPool<kernel_shape = [3, 2]>(q)",
    "pads beyond the kernel": "q = Pad(r, far)\n y = MaxPool<kernel_shape = [3, 3]>(q)",
    "a pool that pads": "q = Pad(x, p)\n y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(q)",
    "an image that may be smaller than the window": "q = Pad(x, p)\n y = AveragePool<kernel_shape = [8, 3]>(q)",
    "a pool that rounds up": "q = Pad(x, p)\n y = AveragePool<kernel_shape = [3, 3], ceil_mode = 1>(q)",
}


@pytest.mark.parametrize("name", MOVES)
def test_zeros_move_into_what_reads_them(name):
    before = lift(HEAD.format(nodes=MOVES[name]))
    after, changes = rewrite(before, fold_pads)
    assert changes == 1 and "Pad" not in ops(after)
    assert_same(before, after, rtol=1e-5)


@pytest.mark.parametrize("name", STAYS)
def test_other_pads_stay(name):
    assert rewrite(lift(HEAD.format(nodes=STAYS[name])), fold_pads)[1] == 0


def test_text_of_folded_pads():
    padded, pooled = (HEAD.format(nodes=MOVES[name]) for name in ("Conv with pads", "AveragePool"))
    assert check(padded, fold_pads).splitlines() == [
        "%r = Relu(%x)",
        "%y = Conv(%x, @w) {pads=[2, 0, 2, 3], strides=[2, 1]}",
        "return %y",
    ]
    assert check(pooled, fold_pads).splitlines() == [
        "%r = Relu(%x)",
        "%y = AveragePool(%x) {count_include_pad=1, kernel_shape=[3, 3], pads=[1, 0, 2, 1], strides=[2, 2]}",
        "return %y",
    ]
