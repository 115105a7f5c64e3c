"""Rotary embedding is recognised by its halves, and stays where they are others; heads that are repeated stay fewer."""

import numpy as np
import pytest

from graphopt.passes import name_sizes
from graphopt.passes.fuse import fuse_attention, fuse_operators
from tests.passes.harness import assert_same, lift, ops, rewrite

HEAD = """g (float[B,2,S,8] x, float[1,S,4] f, float[1,S,8] whole, int64[B,S] ids) => (float[a,b,c,d] y) <
  int64[1] i0 = {{0}}, int64[1] i4 = {{4}}, int64[1] i1 = {{1}}, int64[1] i3 = {{3}},
  int64[1] end = {{9223372036854775807}},
  int64[2] sizes = {{4, 4}}, int64[2] uneven = {{3, 5}}, float[16,8] ct, float[16,8] st, float[1,2,1,8] each>
{{ {table}
 {nodes}
 t = Concat<axis = -1>(n, x1)
 a1 = Mul(x, cu)
 b1 = Mul(SU, t)
 y = Add(b1, a1)
}}"""
ANGLES = """ff = Concat<axis = -1>(f, f)
 co = Cos(ff)
 si = Sin(ff)
 cu = Unsqueeze(co, i1)
 su = Unsqueeze(si, i1)"""
TABLES = ANGLES.replace("ff = Concat<axis = -1>(f, f)\n", "").replace("Cos(ff)", "Gather(ct, ids)").replace(
    "Sin(ff)", "Gather(st, ids)")  # fmt: skip
SLICES = "x1 = Slice(x, i0, i4, i3)\n x2 = Slice(x, i4, end, i3)\n n = Neg(x2)"
SPLIT = "x1, x2 = Split<axis = -1>(x, sizes)\n n = Neg(x2)"
FUSES = {"slices": (ANGLES, SLICES), "split": (ANGLES, SPLIT), "tables": (TABLES, SLICES)}
STAYS = {
    "other half negated": (ANGLES, SLICES.replace("Neg(x2)", "Neg(x1)").replace("x1 =", "x3 =").replace("x2 =", "x1 =")
                           .replace("Neg(x1)", "Neg(x3)")),
    "uneven halves": (ANGLES, SPLIT.replace("sizes", "uneven")),
    "halves of the angles that differ": (ANGLES.replace("Concat<axis = -1>(f, f)", "Identity(whole)"), SLICES),
    "sine of each head": (ANGLES, SLICES + "\n each_su = Mul(su, each)"),
    "another axis": (ANGLES, SLICES.replace("i3", "i1")),
}  # fmt: skip


def model(table, nodes):
    text = HEAD.format(table=table, nodes=nodes).replace("SU", "each_su" if "each_su" in nodes else "su")
    half = np.random.default_rng(0).standard_normal((2, 16, 4))
    made = lift(text, ct=np.concatenate([half[0]] * 2, 1), st=np.concatenate([half[1]] * 2, 1))
    return made


@pytest.mark.parametrize("name", FUSES)
def test_rotary_embedding_is_recognised(name):
    before = model(*FUSES[name])
    after, _ = rewrite(before, fuse_operators, target="onnxruntime")
    assert "com.microsoft::RotaryEmbedding" in ops(after) and "Neg" not in ops(after)
    assert_same(before, after)
    assert rewrite(model(*FUSES[name]), fuse_operators)[1] == 0


@pytest.mark.parametrize("name", STAYS)
def test_other_rotations_stay(name):
    assert rewrite(model(*STAYS[name]), fuse_operators, target="onnxruntime")[1] == 0


def test_tables_whose_halves_differ_stay():
    text = HEAD.format(table=TABLES, nodes=SLICES).replace("SU", "su")
    before = lift(text)
    assert rewrite(before, fuse_operators, target="onnxruntime")[1] == 0


PART = """g (float[B,2,S,16] x, float[B,S,4] f) => (float[a,b,c,d] y) <
  int64[1] i0 = {{0}}, int64[1] i8 = {{8}}, int64[1] i6 = {{6}}, int64[1] i3 = {{3}}, int64[1] end = {{16}},
  int64[2] sizes = {{8, 8}}>
{{ co = Cos(f)
 si = Sin(f)
 {parts}
 t = RotaryEmbedding{attrs}(x1, co, si)
 y = Concat<axis = -1>({order})
}}"""
SLICED_PARTS = "x1 = Slice(x, i0, i8, i3)\n x2 = Slice(x, i8, end, i3)"
PARTS = {"slices": SLICED_PARTS, "split": "x1, x2 = Split<axis = -1>(x, sizes)"}
OTHER_PARTS = {
    "parts that overlap": (SLICED_PARTS.replace("i8, end", "i6, end"), "t, x2", ""),
    "the rest in front": (SLICED_PARTS, "x2, t", ""),
    "the last ones turned": (SLICED_PARTS.replace("x1", "x3").replace("x2", "x1").replace("x3", "x2"), "t, x2", ""),
    "turned in part already": (SLICED_PARTS, "t, x2", "<rotary_embedding_dim = 4>"),
}


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("name", PARTS)
def test_of_heads_that_turn_in_part_the_operator_takes_the_whole(name, interleaved):
    text = PART.format(parts=PARTS[name], order="t, x2", attrs=f"<interleaved = {interleaved}>")
    before = lift(text, 23)
    after, changes = rewrite(before, fuse_operators)
    assert changes == 1 and ops(after) == ["Cos", "Sin", "RotaryEmbedding"]
    turn = list(after.graph)[-1]
    assert turn.attrs["rotary_embedding_dim"] == 8 and turn.attrs["interleaved"] == interleaved
    assert_same(before, after)


@pytest.mark.parametrize("name", OTHER_PARTS)
def test_other_parts_stay(name):
    parts, order, attrs = OTHER_PARTS[name]
    before = lift(PART.format(parts=parts, order=order, attrs=attrs).replace(
        "float[B,S,4] f", "float[B,S,2] f" if attrs else "float[B,S,4] f"), 23)  # fmt: skip
    assert rewrite(before, fuse_operators)[1] == 0


GROUPS = """g (float[B,4,S,8] q, float[B,2,S,8] k0, float[B,2,S,8] v0) => (float[a,b,c,d] y) <int64[1] two = {2},
  int64[1] i0 = {0}, int64[1] i1 = {1}, int64[4] many = {0, 4, -1, 8}, int64[1] eight = {8}, int64[1] ends = {3}> {
  sh = Shape(k0)
  n = Slice(sh, i0, i1)
  l = Slice(sh, two, ends)
  wide = Concat<axis = 0>(n, two, two, l, eight)
  ku = Unsqueeze(k0, two)
  ke = Expand(ku, wide)
  k4 = Reshape(ke, many)
  vu = Unsqueeze(v0, two)
  ve = Expand(vu, wide)
  v4 = Reshape(ve, many)
  k = Transpose<perm = [0, 1, 3, 2]>(k4)
  s = MatMul(q, k)
  p = Softmax(s)
  y = MatMul(p, v4)
}"""


def test_heads_that_are_repeated_stay_fewer():
    before = lift(GROUPS, 23)
    after, changes = rewrite(before, name_sizes, fuse_attention)
    assert changes == 1 and ops(after) == ["Attention"]
    assert_same(before, after, rtol=1e-4)
    assert rewrite(lift(GROUPS, 22), name_sizes, fuse_attention)[1] == 0
