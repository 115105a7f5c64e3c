"""Sizes that inference leaves open get the name, or the number, of what they are equal to; others stay open."""

import pytest

from graphopt.ir import TensorType
from graphopt.passes import name_sizes
from tests.passes.harness import lift, rewrite

HEAD = """g (float[N,S,12] x, float[N,S,4] z) => (float[a,b,c] y, int64[k] r) <int64[1] zero = {{0}},
  int64[1] one = {{1}}, int64[1] two = {{2}}, int64 i0 = {{0}}, int64 i1 = {{1}}, float[1,7,12] table,
  int64[1] left = {{-1}},
  int64[1] four = {{4}}, float[12,5] w, int64[1] three = {{3}}> {{ {nodes}
}}"""
LENGTH = "sh = Shape(x)\n n = Slice(sh, one, two)\n m = Slice(sh, zero, one)\n "
NAMED = {
    "range": (LENGTH + "q = Squeeze(n)\n r = Range(i0, q, i1)\n y = Identity(x)", "r", ("S",)),
    "prefix of a table": (LENGTH + "p = Slice(table, zero, n, one)\n y = Add(x, p)\n r = Identity(sh)", "y",
                          ("N", "S", 12)),
    "split of the last axis": (LENGTH + "c = Concat<axis = 0>(m, n, left, four)\n v = Reshape(x, c)\n "
                               "y = Reshape(v, c)\n r = Identity(sh)", "v", ("N", "S", 3, 4)),
    "expansion": (LENGTH + "c = Concat<axis = 0>(m, n, one)\n u = ReduceMax<axes = [0, 1, 2]>(x)\n y = Expand(u, c)\n "
                  "r = Identity(sh)", "y", ("N", "S", 1)),
    "product": (LENGTH + "p = Slice(table, zero, n, one)\n v = Add(x, p)\n y = MatMul(v, w)\n r = Identity(sh)", "y",
                ("N", "S", 5)),
}  # fmt: skip
OPEN = {
    "range from 1": (LENGTH + "q = Squeeze(n)\n r = Range(i1, q, i1)\n y = Identity(x)", "r", "S"),
    "prefix alone": (LENGTH + "p = Slice(table, zero, n, one)\n y = Exp(p)\n r = Identity(sh)", "p", "S"),
    "not from the beginning": (LENGTH + "p = Slice(table, one, n, one)\n y = Add(x, p)\n r = Identity(sh)", "p", "S"),
    "row of a table of one": (LENGTH + "p = Slice(thin, zero, n, one)\n y = Add(x, p)\n "
                              "r = Identity(sh)", "p", "S"),
}  # fmt: skip


def shapes(nodes):
    before = lift(HEAD.format(nodes=nodes).replace("float[1,7,12] table", "float[1,7,12] table, float[1,1,12] thin"))
    after, changes = rewrite(before, name_sizes)
    assert changes == 0
    found = {value.name: value.type for node in after.graph for value in node.outputs}
    return {name: type.shape for name, type in found.items() if isinstance(type, TensorType)}


@pytest.mark.parametrize("name", NAMED)
def test_sizes_get_the_names_of_their_equals(name):
    nodes, value, wanted = NAMED[name]
    assert shapes(nodes)[value] == wanted


def test_sizes_stay_themselves_when_they_are_named_again():
    """The second visit finds the prefix of the table named S already, which is no equation."""
    nodes, value, wanted = NAMED["prefix of a table"]
    again = nodes.replace("y = Add(x, p)", "v = Add(x, p)\n y = Add(v, p)")
    before = lift(HEAD.format(nodes=again).replace("float[1,7,12] table", "float[1,7,12] table, float[1,1,12] thin"))
    once, _ = rewrite(before, name_sizes)
    twice, _ = rewrite(once, name_sizes)
    found = {v.name: v.type for node in twice.graph for v in node.outputs}
    assert found[value].shape == wanted and found["p"].shape == (1, "S", 12)


@pytest.mark.parametrize("name", OPEN)
def test_sizes_that_may_differ_stay_open(name):
    nodes, value, wrong = OPEN[name]
    assert wrong not in shapes(nodes)[value]
