"""Parts of the last axis are taken by one Split, products keep their rows, the batch comes first; else all stays."""

import pytest

from graphopt.passes import (
    cancel_transposes,
    join_steps,
    name_sizes,
    put_batch_first,
    resolve_shapes,
    split_slices,
    take_parts,
)
from tests.passes.harness import assert_same, body, lift, ops, rewrite

PARTS = """g (float[N,5,6] x) => (float[a,b,c] y) <int64[4] s = {{0, 0, 3, 2}}, int64[1] front = {{0}},
  int64[1] third = {{3}}, int64 i0 = {{0}}, int64 i1 = {{1}}, int64 i2 = {{-1}}> {{
  e = Exp(x)
  r = Reshape(e, {shape})
  {nodes}
}}"""
QKV = """u = Unsqueeze(r, front)
  t = Transpose<perm = {perm}>(u)
  p = Squeeze(t, {out})
  a = Gather(p, i0)
  b = Gather(p, i1)
  c = Gather(p, i2)
  y = Concat<axis = 2>(c, b, a)"""


def parts(perm="[3, 1, 2, 0, 4]", out="third", shape="s"):
    return lift(PARTS.format(nodes=QKV.format(perm=perm, out=out), shape=shape))


def test_queries_keys_and_values_are_one_split():
    before = parts()
    after, changes = rewrite(before, take_parts, split_slices)
    assert changes == 8 and ops(after) == ["Exp", "Split", "Concat"]
    assert_same(before, after, rtol=0)
    assert "Split(%e" in body(after)


def test_an_axis_that_comes_from_elsewhere_stays():
    before = parts(perm="[3, 2, 1, 0, 4]")  # the other axes change places
    after, _ = rewrite(before, take_parts)
    assert ops(after).count("Gather") == 3
    assert_same(before, after, rtol=0)


def test_the_inner_half_of_the_last_axis_stays():
    before = lift(PARTS.format(nodes="y = Gather<axis = 3>(r, i1)", shape="s"))
    assert rewrite(before, take_parts)[1] == 0


def test_an_axis_that_is_taken_out_elsewhere_stays():
    text = PARTS.format(
        nodes="u = Unsqueeze(r, front)\n t = Transpose<perm = [3, 1, 2, 0, 4]>(u)\n y = ReduceMax(t)", shape="s"
    )
    assert rewrite(lift(text), take_parts)[1] == 0


ROWS = """g (float[N,5,6] x) => (float[a,b,c] y) <int64[2] flat = {{-1, 6}}, int64[3] back = {{{back}}}, float[4,6] w,
  float[6,4] v, float[4] bias, float[5,4] all, float[{rows},4] other> {{
  e = Exp(x)
  f = Reshape(e, flat)
  g = Gemm<{attrs}>(f, {operands})
  y = Reshape(g, back)
}}"""
SAME = {
    "transposed weight": ("transB = 1", "w, bias", ["Exp", "MatMul", "Add"]),
    "no bias": ("transB = 0", "v", ["Exp", "MatMul"]),
}
OTHER = {
    "scaled": ("transB = 1, alpha = 0.5", "w, bias", "-1, 5, 4"),
    "other rows": ("transB = 1", "w, bias", "5, -1, 4"),
    "columns in the rows": ("transB = 1", "w, bias", "-1, 10, 2"),
}


def rows(attrs, operands, back="-1, 5, 4"):
    return lift(ROWS.format(attrs=attrs, operands=operands, back=back, rows=5))


@pytest.mark.parametrize("name", SAME)
def test_products_keep_their_rows(name):
    attrs, operands, wanted = SAME[name]
    before = rows(attrs, operands)
    after, changes = rewrite(before, take_parts)
    assert (changes, ops(after)) == (1, wanted)
    assert_same(before, after, rtol=1e-5)


@pytest.mark.parametrize(("operands", "changes"), [("w, bias", 0), ("w", 1)])
def test_half_precision_keeps_a_bias_in_the_product(operands, changes):
    text = ROWS.format(attrs="transB = 1", operands=operands, back="-1, 5, 4", rows=5).replace("float[", "float16[")
    assert rewrite(lift(text), take_parts)[1] == changes


@pytest.mark.parametrize("name", OTHER)
def test_other_products_stay(name):
    assert rewrite(rows(*OTHER[name]), take_parts)[1] == 0


HEADS = """g (float[{B},5,8] x) => (float[a,b,c] y) <float[8,8] w, float[8,8] u, int64[3] flat = {{5, -1, {width}}},
  int64[4] four = {{-1, {heads}, 5, {width}}}, int64[4] turned = {{-1, {heads}, {width}, 5}},
  int64[3] join = {{0, 0, 8}}> {{
  t = Transpose<perm = [1, 0, 2]>(x)
  h = MatMul(t, w)
  r = Reshape(h, flat)
  m = Transpose<perm = {perm}>(r)
  q = Reshape(m, four)
  n = Transpose<perm = [0, 2, 1]>(m)
  k = Reshape(n, turned)
  s = MatMul(q, k)
  o = MatMul(s, q)
  p = Transpose<perm = [2, 0, 1, 3]>(o)
  j = Reshape(p, join)
  z = MatMul(j, u)
  y0 = Transpose<perm = [1, 0, 2]>(z)
  y = Neg(y0)
}}"""


def heads(size="B", perm="[1, 0, 2]", heads=2, width=4):
    return lift(HEADS.format(B=size, perm=perm, heads=heads, width=width))


@pytest.mark.parametrize("size", ["B", "3"])
def test_the_batch_comes_first(size):
    before = heads(size)
    after, changes = rewrite(before, name_sizes, join_steps, put_batch_first, cancel_transposes, resolve_shapes)
    assert changes >= 3
    assert ops(after) == ["MatMul", "Reshape", "Transpose", "Reshape", "Transpose", "MatMul", "MatMul", "Transpose",
                          "Reshape", "MatMul", "Neg"]  # fmt: skip
    assert_same(before, after, rtol=1e-4)


def test_heads_that_are_not_split_off_the_batch_stay():
    before = heads(heads=4, width=4)  # two rows of the batch share the heads of one
    after, _ = rewrite(before, name_sizes, put_batch_first)
    assert ops(after)[:4] == ops(before)[:4]


def test_time_that_comes_first_throughout_stays():
    text = HEADS.format(B="B", perm="[1, 0, 2]", heads=2, width=4).replace(
        "t = Transpose<perm = [1, 0, 2]>(x)", "t = Exp(x)"
    )
    text = text.replace("y0 = Transpose<perm = [1, 0, 2]>(z)", "y0 = Relu(z)")
    assert rewrite(lift(text), name_sizes, put_batch_first)[1] == 0
