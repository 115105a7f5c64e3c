"""Slices, pads and concatenations that are one step become one, and stay where they are more."""

import pytest

from graphopt.passes.layout.slices import flatten_concats, join_slices_and_pads, split_slices
from tests.passes.harness import assert_same, check, lift, ops, rewrite

HEAD = """g (float[N,6,8] x, bool c) => (float[a,b,d] y) <int64[1] k0 = {{0}}, int64[1] k1 = {{1}}, int64[1] k2 = {{2}},
  int64[1] k3 = {{3}}, int64[1] k4 = {{4}}, int64[1] k5 = {{5}}, int64[1] k6 = {{6}}, int64[1] k8 = {{8}},
  int64[1] minus2 = {{-2}}, int64[1] minus3 = {{-3}}, int64[1] end = {{9223372036854775807}},
  int64[6] pads = {{0, 0, 0, 0, 2, 0}}, int64[6] padded = {{0, 1, 0, 0, 0, 0}}, float fill = {{7.0}}> {{ s = Sigmoid(x)
  {nodes}
}}"""
JOINS = {
    "on one axis": "t = Slice(s, k1, k6, k1)\n y = Slice(t, k2, k4, k1)",
    "beyond the end": "t = Slice(s, k1, k4, k1)\n y = Slice(t, k2, k8, k1)",
    "from the end": "t = Slice(s, minus3, end, k1)\n y = Slice(t, k0, minus2, k1)",
    "on two axes": "t = Slice(s, k1, k6, k1)\n y = Slice(t, k0, k4, k2)",
    "of an unknown size": "t = Slice(s, k0, end, k0)\n y = Slice(t, k1, end, k0)",
    "in steps on two axes": "t = Slice(s, k1, end, k1, k2)\n y = Slice(t, k0, end, k2, k2)",
    "in steps on one of two axes": "t = Slice(s, k1, end, k1, k2)\n y = Slice(t, k0, k4, k2)",
    "before a pad": "t = Slice(s, k2, end, k1)\n y = Pad(t, pads)",
    "before a pad that fills": "t = Slice(s, k0, minus2, k1)\n y = Pad(t, padded, fill)",
}
STAYS = {
    "in steps": "t = Slice(s, k0, end, k1, k2)\n y = Slice(t, k1, end, k1)",
    "in halves": "t = Slice(s, k0, k4, k1)\n u = Slice(t, k0, k4, k2)\n v = Slice(t, k4, end, k2)\n y = Add(u, v)",
    "from the end of an unknown size": "t = Slice(s, minus2, end, k0)\n y = Slice(t, k0, k1, k0)",
    "in use": "t = Slice(s, k1, k6, k1)\n u = Slice(t, k2, k4, k1)\n e = ReduceSum(t, k1)\n y = Add(u, e)",
    "a side cut and padded": "t = Slice(s, k2, end, k1)\n y = Pad(t, padded)",
    "a pad that reflects": 't = Slice(s, k1, end, k1)\n y = Pad<mode = "reflect">(t, pads)',
}
SPLITS = {
    "in halves": ("p = Slice(s, k0, k3, k1)\n q = Slice(s, k3, end, k1)\n y = Concat<axis = 1>(q, p)",
                  ["Sigmoid", "Split", "Concat"]),
    "in three": ("p = Slice(s, k5, k6, k1)\n q = Slice(s, k0, k2, k1)\n r = Slice(s, k2, k5, k1)\n "
                 "y = Concat<axis = 1>(p, q, r)", ["Sigmoid", "Split", "Concat"]),
    "in a branch": ("y = If(c) <then_branch = g1 () => (float[a1,b1,c1] o1) { p = Slice(s, k0, k3, k1)\n "
                    "q = Slice(s, k3, k6, k1)\n o1 = Concat<axis = 1>(q, p) }, "
                    "else_branch = g2 () => (float[a2,b2,c2] o2) { o2 = Exp(s) }>",
                    ["Sigmoid", "If", "Split", "Concat", "Exp"]),
}  # fmt: skip
WHOLE = {
    "with a gap": "p = Slice(s, k0, k2, k1)\n q = Slice(s, k3, end, k1)\n y = Concat<axis = 1>(q, p)",
    "with an overlap": "p = Slice(s, k0, k4, k1)\n q = Slice(s, k3, end, k1)\n y = Concat<axis = 1>(q, p)",
    "of an unknown size": "p = Slice(s, k0, k2, k0)\n q = Slice(s, k2, end, k0)\n y = Concat<axis = 0>(q, p)",
    "on two axes": "p = Slice(s, k0, k4, k2)\n q = Slice(s, k0, k3, k1)\n e = ReduceSum(q, k1)\n "
                   "f = ReduceSum(e, k2)\n y = Add(p, f)",
}  # fmt: skip


@pytest.mark.parametrize("name", JOINS)
def test_two_become_one(name):
    before = lift(HEAD.format(nodes=JOINS[name]))
    after, changes = rewrite(before, join_slices_and_pads)
    assert (changes, len(ops(after))) == (1, 2)
    assert_same(before, after, rtol=0)


def test_a_patch_is_read_at_once():
    nodes = ("p = Slice(s, k0, end, k1, k2)\n q = Slice(s, k1, end, k1, k2)\n t = Slice(p, k0, end, k2, k2)\n "
             "u = Slice(q, k0, end, k2, k2)\n v = Slice(p, k1, end, k2, k2)\n w = Slice(q, k1, end, k2, k2)\n "
             "y = Concat<axis = 2>(t, u, v, w)")  # fmt: skip
    before = lift(HEAD.format(nodes=nodes))
    after, changes = rewrite(before, join_slices_and_pads)
    assert (changes, ops(after).count("Slice")) == (4, 4)
    assert_same(before, after, rtol=0)


@pytest.mark.parametrize("name", STAYS)
def test_two_stay(name):
    assert rewrite(lift(HEAD.format(nodes=STAYS[name])), join_slices_and_pads)[1] == 0


@pytest.mark.parametrize(("width", "changes"), [(8, 0), (64, 1)])
def test_large_pads_of_short_rows_stay_apart_as_they_are_faster_so(width, changes):
    text = HEAD.format(nodes=JOINS["before a pad"]).replace("[N,6,8]", f"[N,2000,{width}]")
    assert rewrite(lift(text), join_slices_and_pads)[1] == changes


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("name", SPLITS)
def test_slices_become_a_split(name, opset):
    nodes, wanted = SPLITS[name]
    before = lift(HEAD.format(nodes=nodes), opset=opset)
    after, changes = rewrite(before, split_slices)
    assert (changes, ops(after)) == (1, wanted)
    assert_same(before, after, rtol=0)


@pytest.mark.parametrize("name", WHOLE)
def test_slices_that_do_not_cover_the_axis_stay(name):
    assert rewrite(lift(HEAD.format(nodes=WHOLE[name])), split_slices)[1] == 0


def test_gathers_of_every_element_become_a_split():
    text = """g (float[3,N,4] x) => (float[a,b,c] y) <int64[1] i = {0}, int64[1] j = {-2}, int64[1] k = {2}> {
      p = Gather(x, i)
      q = Gather(x, k)
      r = Gather(x, j)
      y = Concat<axis = 2>(p, q, r) }"""
    before = lift(text)
    after, changes = rewrite(before, split_slices)
    assert (changes, ops(after)) == (1, ["Split", "Concat"])
    assert_same(before, after, rtol=0)


def test_concats_on_one_axis_are_one():
    text = """g (float[N,4] x) => (float[a,b] y) {
      p = Sigmoid(x)
      q = Concat<axis = 1>(x, p)
      r = Concat<axis = -1>(p, q, x)
      s = Concat<axis = 0>(x, p)
      t = Concat<axis = 1>(s, s)
      u = Concat<axis = 1>(r, x)
      y = Concat<axis = 0>(u, u) }"""
    before = lift(text)
    after, changes = rewrite(before, flatten_concats)
    assert changes == 2
    assert ops(after) == ["Sigmoid", "Concat", "Concat", "Concat", "Concat"]
    assert_same(before, after, rtol=0)


def test_text_of_joined_and_split_slices():
    ends, filled, three = JOINS["from the end"], JOINS["before a pad that fills"], SPLITS["in three"][0]
    assert check(HEAD.format(nodes=ends), join_slices_and_pads).splitlines() == [
        "%s = Sigmoid(%x)",
        "%y = Slice(%s, @3=i64[1](3), @4=i64[1](4), @5=i64[1](1))",
        "return %y",
    ]
    assert check(HEAD.format(nodes=filled), join_slices_and_pads).splitlines() == [
        "%s = Sigmoid(%x)",
        "%y = Pad(%s, @3=i64[6](0, 1, 0, 0, -2, 0), @fill=f32[](7))",
        "return %y",
    ]
    assert check(HEAD.format(nodes=three), split_slices).splitlines() == [
        "%s = Sigmoid(%x)",
        "%q, %r, %p = Split(%s, @3=i64[3](2, 3, 1)) {axis=1}",
        "%y = Concat(%p, %q, %r) {axis=1}",
        "return %y",
    ]
