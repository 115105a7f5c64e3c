"""Ranks that operators demand flow backwards and decide branches; without such a demand both branches stay."""

import pytest

from graphopt.ir import TensorType
from graphopt.passes.clean.dead import remove_dead_nodes
from graphopt.passes.control.branches import inline_branches
from graphopt.passes.fold.constants import fold_constants
from graphopt.passes.shapes.arithmetic import resolve_shapes
from graphopt.passes.shapes.demands import infer_demands
from tests.passes.harness import assert_same, body, lift, ops, rewrite

TEXT = """
g (float[N,4,1] x) => (float[a,b,c] y) <float[1,9,4] w, float[1,9,3] r, float[1,18] bias, int64[1] last = {-1},
  int64[1] first = {0}, int64 axis = {2}, int64 one = {1}, int64 two = {2}, float[3,4,1] k> {
  z = Relu(x)
  s = Shape(z)
  n = Gather(s, axis)
  c = Equal(n, one)
  h = If(c) <
    then_branch = p () => (float[d,e] p1) { p1 = Squeeze(z, last) },
    else_branch = q () => (float[f,g,i] q1) { q1 = Identity(z) }
  >
  hs = Shape(h)
  rank = Size(hs)
  flat = Equal(rank, two)
  t = If(flat) <
    then_branch = u () => (float[] u1) { u1 = Identity(h) },
    else_branch = v () => (float[] v1) { v1 = Unsqueeze(h, first) }
  >
  USE
}"""
RECURRENT = "o = Unsqueeze(t, first)\n y, last_state = GRU<hidden_size = 3>(o, w, r, bias)"
CONVOLVED = "y = Conv(t, k)"
OPEN = "y = Sigmoid(t)"


def test_what_a_recurrence_demands_decides_the_branches_before_it():
    before = lift(TEXT.replace("USE", RECURRENT).replace("float[a,b,c] y", "float[a,b,c,d2] y"))
    after, changes = rewrite(before, infer_demands, resolve_shapes, fold_constants, inline_branches, remove_dead_nodes)
    assert changes and "If" not in ops(after)
    assert body(after).splitlines() == [
        "%z = Relu(%x)",
        "%p1 = Squeeze(%z, @last=i64[1](-1))",
        "%u1 = Identity(%p1)",
        "%o = Unsqueeze(%u1, @first=i64[1](0))",
        "%y, %last_state = GRU(%o, @w, @r, @bias) {hidden_size=3}",
        "return %y",
    ]
    assert_same(before, after, rtol=0)


def test_without_a_demand_both_branches_stay():
    before = lift(TEXT.replace("USE", OPEN))
    after, _ = rewrite(before, infer_demands)
    assert ops(after).count("If") == 2


def test_both_branches_of_the_demanded_rank_stay():
    text = """
    g (float[N,4,8] x, bool c) => (float[a,b,d] y) <float[3,4,1] k> {
      t = If(c) <
        then_branch = u () => (float[] u1) { u1 = Relu(x) },
        else_branch = v () => (float[] v1) { v1 = Sigmoid(x) }
      >
      y = Conv(t, k)
    }"""
    before = lift(text)
    after, changes = rewrite(before, infer_demands)
    assert changes == 0 and ops(after) == ["If", "Relu", "Sigmoid", "Conv"]


def test_a_demand_inside_a_branch_says_nothing_of_what_is_outside():
    text = """
    g (float[N,4,8] x, bool c, bool d) => (float[a,b,e] y) <float[3,4,1] k, int64[1] last = {-1}, int64[1] zero = {0}> {
      t = If(c) <
        then_branch = u () => (float[] u1) { u1 = ReduceSum<keepdims = 0>(x, last) },
        else_branch = v () => (float[] v1) { v1 = Sigmoid(x) }
      >
      y = If(d) <
        then_branch = u2 () => (float[f,g,h] u3) { u3 = Conv(t, k) },
        else_branch = v2 () => (float[i,j,l] v3) { v3 = Exp(t) }
      >
    }"""
    assert rewrite(lift(text), infer_demands)[1] == 0


@pytest.mark.parametrize("use", [CONVOLVED, RECURRENT])
def test_ranks_flow_backwards(use):
    model, _ = rewrite(lift(TEXT.replace("USE", use)), infer_demands)
    (unsqueezed,) = [n.inputs[0] for n in model.graph if n.op in ("Conv", "GRU")]
    assert isinstance(unsqueezed.type, TensorType) and unsqueezed.type.rank == 3
