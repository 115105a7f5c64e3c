"""A function of every part moves before the Split; functions that differ, or of some parts only, stay."""

import pytest

from graphopt.passes.layout.hoist import hoist_over_split
from tests.passes.harness import assert_same, check, lift, ops, rewrite

HEAD = """g (float[N,6] x) => (float[a,b] y) <int64[2] parts = {{2, 4}}, float two = {{2.0}}, float[2] k, float[4] m,
  float[1] one = {{1.0}}, int64[1] ax = {{1}}> {{
  a, b = Split<axis = 1>(x, parts)
  {nodes}
}}"""
MOVES = {
    "a function": ("p = Tanh(a)\n q = Tanh(b)", ["Tanh", "Split", "Concat"]),
    "a power": ("p = Pow(a, two)\n q = Pow(b, two)", ["Pow", "Split", "Concat"]),
    "one after another": ("r = Add(a, one)\n t = Add(b, one)\n p = Elu<alpha = 0.5>(r)\n q = Elu<alpha = 0.5>(t)",
                          ["Add", "Elu", "Split", "Concat"]),
}  # fmt: skip
STAYS = {
    "different functions": "p = Tanh(a)\n q = Sigmoid(b)",
    "different constants": "p = Mul(a, two)\n q = Mul(b, one)",
    "different attributes": "p = Elu<alpha = 0.5>(a)\n q = Elu(b)",
    "a constant with an axis": "p = Mul(a, k)\n q = Mul(b, m)",
    "one part": "p = Tanh(a)\n q = Identity(b)",
    "a sum over the part": "r = ReduceSum(a, ax)\n t = ReduceSum(b, ax)\n p = Add(a, r)\n q = Add(b, t)",
}


@pytest.mark.parametrize("name", MOVES)
def test_functions_move_before_the_split(name):
    nodes, wanted = MOVES[name]
    before = lift(HEAD.format(nodes=nodes + "\n y = Concat<axis = 1>(q, p)"))
    after, changes = rewrite(before, hoist_over_split)
    assert changes and ops(after) == wanted
    assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize("name", STAYS)
def test_other_functions_stay(name):
    before = lift(HEAD.format(nodes=STAYS[name] + "\n y = Concat<axis = 1>(q, p)"))
    assert rewrite(before, hoist_over_split)[1] == 0


def test_text_of_functions_before_the_split():
    nodes = MOVES["one after another"][0] + "\n y = Concat<axis = 1>(q, p)"
    assert check(HEAD.format(nodes=nodes), hoist_over_split).splitlines() == [
        "%2 = Add(%x, @one=f32[1](1))",
        "%3 = Elu(%2) {alpha=0.5}",
        "%p, %q = Split(%3, @parts=i64[2](2, 4)) {axis=1}",
        "%y = Concat(%q, %p) {axis=1}",
        "return %y",
    ]
