"""Shapes are resolved as far as they are known, with symbolic sizes."""

import pytest

from graphopt.passes.shapes.arithmetic import resolve_shapes
from tests.passes.harness import assert_same, lift, ops, rewrite

BETWEEN = "<int64 i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] rest = {-1}, int64 two = {2}>"
RESOLVES = {
    "known size picked from a shape": ("u = Gather(s, i2)\n c = Concat<axis = 0>(u, rest)", [4, -1]),
    "size of the same axis": ("u = Gather(s, i0)\n v = Unsqueeze(u, k0)\n c = Concat<axis = 0>(v, rest)", [0, 12]),
    "product of known and unknown": (
        "u = Slice(s, k0, i1)\n v = Slice(s, i2, end)\n p = Mul(u, v)\n w = Slice(s, i1, i2)\n"
        " c = Concat<axis = 0>(w, p)", [3, -1]),
    "cast and arithmetic": (
        "u = Gather(s, i2)\n v = Squeeze(u)\n w = Div(v, two)\n q = Cast<to = 7>(w)\n t = Unsqueeze(q, k0)\n"
        " c = Concat<axis = 0>(rest, t)", [-1, 2]),
}  # fmt: skip
TEXT = """
g (float[N,3,4] x) => (float[a,b] y) {between} {{
  r = Relu(x)
  s = Shape(r)
  {nodes}
  y = Reshape(r, c)
}}"""
CONSTANTS = BETWEEN[:-1] + ", int64[1] k0 = {0}, int64[1] end = {9}>"


@pytest.mark.parametrize("name", RESOLVES)
def test_reshape_gets_constant_sizes(name):
    nodes, sizes = RESOLVES[name]
    before = lift(TEXT.format(between=CONSTANTS, nodes=nodes))
    after, _ = rewrite(before, resolve_shapes)
    assert ops(after) == ["Relu", "Reshape"]
    assert list(after.graph).pop().constant(1).array().tolist() == sizes
    assert_same(before, after)


def test_axes_that_tile_copies_as_often_as_is_known_keep_their_size():
    before = lift("""g (float[N,3] x) => (float[a,b,c] y, int64[1] z) <float[1,4,6] w,
      int64[1] one = {1}, int64[1] two = {2}, int64[1] k0 = {0}, int64[1] end = {9}> {
      s = Shape(x)
      n = Slice(s, k0, one)
      c = Concat<axis = 0>(n, two, one)
      y = Tile(w, c)
      t = Shape(y)
      u = Slice(t, one, end)
      z = ReduceProd(u) }""")
    after, _ = rewrite(before, resolve_shapes)
    assert after.graph.outputs[0].type.shape[1:] == (8, 6)
    assert list(after.graph)[-1].constant(0).array().tolist() == [8, 6]
    assert_same(before, after)


def test_two_sizes_to_infer_are_left_alone():
    nodes = "u = Gather(s, i0)\n v = Unsqueeze(u, k0)\n p = Mul(v, i2)\n c = Concat<axis = 0>(p, p)"
    before = lift(TEXT.format(between=CONSTANTS, nodes=nodes))
    assert rewrite(before, resolve_shapes)[1] == 0


def test_types_that_become_known_are_used_further_on_and_in_branches():
    before = lift(
        """
    g (float[N,3,4] x, bool c) => (float[a,b,d] y) <int64[1] i2 = {2}, int64[1] rest = {-1}, int64[1] i1 = {1}> {
      s = Shape(x)
      u = Gather(s, i2)
      t = Concat<axis = 0>(rest, u)
      r = Reshape(x, t)
      y = If(c) <
        then_branch = p () => (float[e,f,h] p1) { s1 = Shape(r)
          v = Gather(s1, i1)
          w = Concat<axis = 0>(rest, i2, v)
          p1 = Reshape(r, w) },
        else_branch = q () => (float[i,j,k] q1) { q1 = Relu(x) }
      >
    }"""
    )
    after, _ = rewrite(before, resolve_shapes)
    assert ops(after) == ["Reshape", "If", "Reshape", "Relu"]
