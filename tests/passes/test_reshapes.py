"""Chains that keep the order of elements become one Reshape or nothing, and stay where they do more."""

import numpy as np
import pytest

from graphopt.ops import quotient, reshaped
from graphopt.passes.layout.reshapes import join_shape_changes
from graphopt.passes.shapes.arithmetic import resolve_shapes
from tests.passes.harness import assert_same, check, lift, ops, rewrite

HEAD = """g (float[N,3,4] x) => (float[a,b,c] y) <int64[2] flat = {{-1, 12}}, int64[3] back = {{-1, 4, 3}},
  int64[3] copy = {{0, 4, 3}}, int64[3] same = {{-1, 3, 4}}, int64[1] a0 = {{0}}, int64[1] a1 = {{1}},
  int64[1] a2 = {{2}}, int64[1] a3 = {{3}}, int64[4] wide = {{-1, 1, 3, 4}}, int64[3] thin = {{-1, 3, 5}},
  int64[8] pads = {{0, 0, 0, 1, 0, 0, 0, 0}}, int64[8] high = {{0, 1, 0, 0, 0, 0, 0, 0}}, int64 i = {{1}},
  int64[3] tall = {{-1, 6, 4}}, int64[1] iv = {{1}}> {{ s = Sigmoid(x)
  {nodes}
}}"""
JOINS = {
    "reshapes": ("r = Reshape(s, flat)\n y = Reshape(r, back)", ["Sigmoid", "Reshape"]),
    "flatten and reshape": ("r = Flatten(s)\n y = Reshape(r, back)", ["Sigmoid", "Reshape"]),
    "there and back": ("r = Reshape(s, flat)\n t = Reshape(r, same)\n y = Exp(t)", ["Sigmoid", "Exp"]),
    "unsqueeze and squeeze": ("u = Unsqueeze(s, a1)\n v = Squeeze(u, a1)\n y = Exp(v)", ["Sigmoid", "Exp"]),
    "around a function": (
        "u = Unsqueeze(s, a1)\n f = Relu(u)\n v = Reshape(f, same)\n y = Exp(v)", ["Sigmoid", "Relu", "Exp"]),
    "around a pad": (
        "u = Reshape(s, wide)\n p = Pad(u, pads)\n v = Reshape(p, thin)\n y = Exp(v)", ["Sigmoid", "Pad", "Exp"]),
    "into the transpose before": (
        "u = Unsqueeze(s, a1)\n r = Relu(u)\n t = Transpose<perm = [0,2,3,1]>(r)\n v = Squeeze(t, a3)\n y = Exp(v)",
        ["Sigmoid", "Relu", "Exp"]),
    "mean over one": (
        "u = Unsqueeze(s, a2)\n m = ReduceMean<axes = [2], keepdims = 0>(u)\n y = Exp(m)", ["Sigmoid", "Exp"]),
    "index with its axis": (
        "g1 = Gather<axis = 1>(s, i)\n v = Unsqueeze(g1, a1)\n y = Exp(v)", ["Sigmoid", "Gather", "Exp"]),
    "index without its axis": (
        "g1 = Gather<axis = 1>(s, iv)\n v = Squeeze(g1, a1)\n y = Unsqueeze(v, a0)",
        ["Sigmoid", "Gather", "Unsqueeze"]),
}  # fmt: skip
STAYS = {
    "a copied size": "t = Reshape(s, tall)\n y = Relu(t)",
    "a reshape in a transpose": "r = Reshape(s, back)\n y = Transpose<perm = [0,2,1]>(r)",
    "a transpose in a reshape": "t = Transpose<perm = [0,2,1]>(s)\n y = Reshape(t, same)",
    "a pad of the axis put in": "u = Reshape(s, wide)\n p = Pad(u, high)\n y = Reshape(p, tall)",
    "a sum over four": "y = ReduceSum<keepdims = 0>(s, a2)",
    "another axis": "g1 = Gather<axis = 1>(s, i)\n y = Unsqueeze(g1, a2)",
    "a function in use": "u = Unsqueeze(s, a1)\n f = Relu(u)\n v = Reshape(f, same)\n e = Exp(f)\n y = Add(v, e)",
}


@pytest.mark.parametrize("name", JOINS)
def test_chain_becomes_one(name):
    nodes, wanted = JOINS[name]
    before = lift(HEAD.format(nodes=nodes))
    after, _ = rewrite(before, resolve_shapes, join_shape_changes)
    assert ops(after) == wanted
    assert_same(before, after, rtol=0)


@pytest.mark.parametrize("name", STAYS)
def test_chain_stays_where_it_does_more(name):
    before = lift(HEAD.format(nodes=STAYS[name]))
    assert rewrite(rewrite(before, resolve_shapes)[0], join_shape_changes)[1] == 0


def test_sizes_of_two_names_are_copied():
    text = """g (float[N,M,4,1] x) => (float[a,b,c] y) <int64[1] last = {3}, int64[1] three = {3}> {
      s = Sigmoid(x)
      q = Squeeze(s, last)
      u = Unsqueeze(q, last)
      v = Squeeze(u, last)
      y = Exp(v) }"""
    before = lift(text)
    after, _ = rewrite(before, join_shape_changes)
    assert ops(after) == ["Sigmoid", "Reshape", "Exp"] or ops(after) == ["Sigmoid", "Squeeze", "Exp"]
    assert_same(before, after, rtol=0)


@pytest.mark.parametrize(
    ("before", "wanted", "allowzero", "made"),
    [
        (("N", 4, 6), (0, -1), False, ("N", 24)),
        ((1, "N", 6), (-1, 6), False, ("N", 6)),
        (("N", 4), (-1, 8), False, (None, 8)),
        (("N", "M"), (-1,), False, (None,)),
        (("N", "M", 4), (0, 4, -1), False, ("N", 4, "M")),
        ((3, None, 4), (0, 0, 2, -1), False, (3, None, 2, 2)),
        ((0, 4), (-1, 2), False, (None, 2)),
        ((0, 4), (0, 2), True, (0, 2)),
        (None, (2, -1), False, (2, None)),
    ],
)
def test_reshape_of_names(before, wanted, allowzero, made):
    assert reshaped(before, wanted, allowzero) == made


def test_quotient_of_names():
    assert quotient(("N", 4, "M"), ("M", 4)) == "N"
    assert quotient(("N", 4), ("M",)) is None
    assert quotient((7,), (2,)) is None
    assert np.prod(()) == quotient((), ())


def test_text_of_joined_chains():
    around, into, index = (JOINS[n][0] for n in ("around a pad", "into the transpose before", "index with its axis"))
    assert check(HEAD.format(nodes=around), resolve_shapes, join_shape_changes).splitlines() == [
        "%s = Sigmoid(%x)",
        "%v = Pad(%s, @2=i64[6](0, 0, 1, 0, 0, 0))",
        "%y = Exp(%v)",
        "return %y",
    ]
    assert check(HEAD.format(nodes=into), resolve_shapes, join_shape_changes).splitlines() == [
        "%s = Sigmoid(%x)",
        "%v = Relu(%s)",
        "%y = Exp(%v)",
        "return %y",
    ]
    assert check(HEAD.format(nodes=index), resolve_shapes, join_shape_changes).splitlines() == [
        "%s = Sigmoid(%x)",
        "%v = Gather(%s, @2=i64[1](1)) {axis=1}",
        "%y = Exp(%v)",
        "return %y",
    ]
