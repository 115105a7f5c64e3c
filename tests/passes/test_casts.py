"""What is only moved about keeps its type; what is computed in a wider type, or narrowed before, stays."""

import pytest

from graphopt.passes.clean.casts import drop_cast_islands
from graphopt.passes.clean.dead import remove_dead_nodes
from tests.passes.harness import assert_same, check, lift, ops, rewrite

HEAD = """g (float16[N,4,6] x) => (float16[a,b,c] y) <int64[3] s = {{0, 6, 4}}, int64[1] one = {{1}},
  int64[1] three = {{3}},
  int64[1] last = {{2}}, float f = {{1.5}}> {{
  {nodes}
}}"""
ISLANDS = {
    "a transpose": ("w = Cast<to = 1>(x)\n t = Transpose<perm = [0, 2, 1]>(w)\n y = Cast<to = 10>(t)", ["Transpose"]),
    "a chain": ("w = Cast<to = 1>(x)\n t = Reshape(w, s)\n u = Slice(t, one, three, last)\n y = Cast<to = 10>(u)",
                ["Reshape", "Slice"]),
    "a concatenation": ("w = Cast<to = 1>(x)\n t = Transpose<perm = [0, 2, 1]>(w)\n u = Reshape(w, s)\n "
                        "v = Concat<axis = 1>(t, u)\n y = Cast<to = 10>(v)", ["Transpose", "Reshape", "Concat"]),
    "in double precision": ("w = Cast<to = 11>(x)\n t = Transpose(w)\n y = Cast<to = 10>(t)", ["Transpose"]),
}  # fmt: skip
STAYS = {
    "a computation": "w = Cast<to = 1>(x)\n t = Mul(w, f)\n y = Cast<to = 10>(t)",
    "a narrower type": "w = Cast<to = 3>(x)\n t = Transpose(w)\n y = Cast<to = 10>(t)",
    "another source": "w = Cast<to = 1>(x)\n e = Exp(w)\n v = Concat<axis = 1>(w, e)\n y = Cast<to = 10>(v)",
    "in use": "w = Cast<to = 1>(x)\n t = Transpose<perm = [0, 2, 1]>(w)\n m = ReduceMean(t)\n n = Cast<to = 10>(m)\n "
              "u = Cast<to = 10>(t)\n y = Add(u, n)",
}  # fmt: skip


@pytest.mark.parametrize("name", ISLANDS)
def test_islands_keep_their_type(name):
    nodes, wanted = ISLANDS[name]
    before = lift(HEAD.format(nodes=nodes))
    after, changes = rewrite(before, drop_cast_islands, remove_dead_nodes)
    assert changes and ops(after) == wanted
    assert_same(before, after, rtol=0)


@pytest.mark.parametrize("name", STAYS)
def test_other_casts_stay(name):
    assert rewrite(lift(HEAD.format(nodes=STAYS[name])), drop_cast_islands)[1] == 0


def test_text_of_an_island():
    text = HEAD.format(nodes=ISLANDS["a concatenation"][0])
    assert check(text, drop_cast_islands, remove_dead_nodes).splitlines() == [
        "%t = Transpose(%x) {perm=[0, 2, 1]}",
        "%u = Reshape(%x, @s=i64[3](0, 6, 4))",
        "%v = Concat(%t, %u) {axis=1}",
        "return %v",
    ]
