"""Two steps become one, and stay two where that would change a result."""

import numpy as np
import pytest

from graphopt.passes.clean.compose import drop_zero_states, join_steps
from tests.passes.harness import assert_same, lift, ops, rewrite

HEAD = """g (float[N,3,4] x) => (float[a,b,c] y) <int64[2] flat = {{-1, 12}}, int64[3] back = {{-1, 4, 3}},
  int64[3] copy = {{0, 4, 3}}, int64[1] a0 = {{0}}, int64[2] a2 = {{0, 2}}, int64[1] neg = {{-1}}, float lo = {{-1.0}},
  float hi = {{1.0}}, float top = {{9.0}}> {{ s = Sigmoid(x)
  {nodes}
}}"""
JOINS = {
    "transposes": ("t = Transpose<perm = [1,2,0]>(s)\n y = Transpose<perm = [1,0,2]>(t)", ["Sigmoid", "Transpose"]),
    "transposes that cancel": (
        "t = Transpose<perm = [1,2,0]>(s)\n u = Transpose<perm = [2,0,1]>(t)\n y = Exp(u)", ["Sigmoid", "Exp"]),
    "widening casts": ("d = Cast<to = 11>(s)\n f = Cast<to = 1>(d)\n y = Exp(f)", ["Sigmoid", "Exp"]),
    "unsqueezes": ("u = Unsqueeze(s, a0)\n y = Unsqueeze(u, a2)", ["Sigmoid", "Unsqueeze"]),
    "relus": ("r = Relu(s)\n y = Relu(r)", ["Sigmoid", "Relu"]),
    "clips": ("c = Clip(s, lo, top)\n y = Clip(c, , hi)", ["Sigmoid", "Clip"]),
}  # fmt: skip
STAYS = {
    "narrowing casts": "d = Cast<to = 10>(s)\n y = Cast<to = 1>(d)",
    "reshape that copies": "t = Reshape(s, flat)\n y = Reshape(t, copy)",
    "clips apart": "c = Clip(s, , lo)\n y = Clip(c, hi, )",
    "axes from the end": "u = Unsqueeze(s, neg)\n y = Unsqueeze(u, a0)",
    "clip in use": "c = Clip(s, lo, top)\n d = Clip(c, , hi)\n y = Add(c, d)",
}


@pytest.mark.parametrize("name", JOINS)
def test_two_steps_become_one(name):
    nodes, wanted = JOINS[name]
    before = lift(HEAD.format(nodes=nodes))
    after, changes = rewrite(before, join_steps)
    assert (changes, ops(after)) == (1, wanted)
    assert_same(before, after, rtol=0)


@pytest.mark.parametrize("name", STAYS)
def test_two_steps_stay_where_one_is_not_the_same(name):
    assert rewrite(lift(HEAD.format(nodes=STAYS[name])), join_steps)[1] == 0


RECURRENT = """
g (float[5,N,4] x) => (float[a,b,c,d] y) <float[1,24,4] w, float[1,24,8] r, float[1,48] bias, int64 i = {1},
  int64[1] k0 = {0}, int64[1] k1 = {1}, int64[1] k2 = {2}, int64[1] k8 = {8}> {
  s = Shape(x)
  n = Gather(s, i)
  u = Unsqueeze(n, k0)
  c = Concat<axis = 0>(k2, u, k8)
  z = ConstantOfShape<value = float[1] {FILL}>(c)
  h = Slice(z, k0, k1, k0)
  y, last = GRU<hidden_size = 8>(x, w, r, bias, , h)
}"""


@pytest.mark.parametrize(("fill", "changes"), [("0.0", 1), ("1.0", 0)])
def test_recurrence_that_starts_at_zero_needs_no_state(fill, changes):
    before = lift(RECURRENT.replace("FILL", fill), w=np.full((1, 24, 4), 0.1))
    after, made = rewrite(before, drop_zero_states)
    assert made == changes
    assert ops(after) == ["GRU"] if changes else len(ops(after)) == 7
    assert_same(before, after, rtol=0)
