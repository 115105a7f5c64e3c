"""A mask that is read position by position is a window of it, for every size; what reads other places stays."""

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.passes import drop_identities, name_sizes, resolve_shapes
from graphopt.passes.layout import join_shape_changes, read_masks
from tests.passes.harness import lift, ops, outputs, rewrite

HEAD = """g (bool[B,W] m, float[B,T] x) => (bool[a,b,c,d] y) <
  int64 i0 = {0}, int64 n0 = {0}, int64 n1 = {1}, int64[1] one = {1}, int64[3] rest = {1, 2, 3},
  int64[3] front = {0, 1, 2}, int64[1] last = {-1}, int64[1] flat = {-1}, int64[1] nought = {0}
> {
  sx = Shape(x)
  rows = Gather(sx, i0)
  columns = Gather(sx, n1)
  r = Range(n0, rows, n1)
  c = Range(n0, columns, n1)
  R = Unsqueeze(r, rest)
  C = Unsqueeze(c, front)
  NODES
}"""
PAIRS = """big = Max(R, C)
  s = Shape(big)
  re = Expand(R, s)
  ce = Expand(C, s)
  ru = Unsqueeze(re, last)
  cu = Unsqueeze(ce, last)
  p = Concat<axis = -1>(ru, cu)
  y = GatherND(m, p)"""
PLACES = """sm = Shape(m)
  w = Gather(sm, one)
  f = Flatten<axis = 2>(m)
  start = Mul(R, w)
  at = Add(C, start)
  g5 = Gather(f, at)
  shape = Shape(at)
  g1 = Reshape(g5, flat)
  y = Reshape(g1, shape)"""
FORMS = {"pairs, as the newer exporter writes them": PAIRS, "places, as the older one does": PLACES}
STAYS = {
    "columns before rows": PAIRS.replace("Concat<axis = -1>(ru, cu)", "Concat<axis = -1>(cu, ru)"),
    "positions from 1": PAIRS.replace("Expand(C, s)", "Expand(D, s)").replace("big =", "d = Range(n1, columns, n1)\n  "
                                                                             "D = Unsqueeze(d, front)\n  big ="),
    "rows of another length": PLACES.replace("Gather(sm, one)", "Gather(sm, nought)"),
}  # fmt: skip


def model(nodes):
    return lift(HEAD.replace("NODES", nodes))


@pytest.mark.parametrize("name", FORMS)
def test_a_mask_that_is_read_by_positions_is_a_window(name):
    before = model(FORMS[name])
    passes = (resolve_shapes, name_sizes, resolve_shapes, read_masks, join_shape_changes, drop_identities)
    after, _ = rewrite(before, *passes)
    assert not {"Gather", "GatherND", "Flatten", "Expand"} & {op for op in ops(after) if op != "Gather"}
    assert "Slice" in ops(after)
    for batch, length, width in ((1, 1, 1), (2, 3, 3), (3, 4, 9)):
        rng = np.random.default_rng(width)
        feeds = {"m": rng.integers(0, 2, (batch, width)).astype(bool), "x": np.zeros((batch, length), np.float32)}
        (x,), (y,) = (outputs(onnx_io.to_proto(made), feeds) for made in (before, after))
        np.testing.assert_array_equal(x, feeds["m"][:, None, None, :length])
        np.testing.assert_array_equal(x, y)


def test_a_mask_of_the_right_size_is_not_sliced():
    before = lift(HEAD.replace("bool[B,W]", "bool[B,T]").replace("NODES", PAIRS))
    after, _ = rewrite(before, resolve_shapes, name_sizes, read_masks)
    assert ops(after)[-1] == "Unsqueeze" and "Slice" not in ops(after) and "GatherND" not in ops(after)


@pytest.mark.parametrize("name", STAYS)
def test_other_places_stay(name):
    assert rewrite(model(STAYS[name]), resolve_shapes, name_sizes, read_masks)[1] == 0


def test_rows_that_may_be_more_stay():
    text = HEAD.replace("bool[B,W]", "bool[A,W]")
    assert rewrite(lift(text.replace("NODES", PLACES)), name_sizes, read_masks)[1] == 0
    after, changes = rewrite(lift(text.replace("NODES", PAIRS)), name_sizes, read_masks)
    assert changes and "Slice" in ops(after)  # of both axes: pairs are looked up within the mask
