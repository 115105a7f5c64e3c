"""Dead code, common subexpressions, identical constants."""

import numpy as np
import pytest

from graphopt.ir import Constant, to_text
from graphopt.passes.clean.constants import merge_identical_constants
from graphopt.passes.clean.cse import merge_common_subexpressions
from graphopt.passes.clean.dead import remove_dead_nodes
from graphopt.passes.clean.ties import tie_heads
from graphopt.passes.fold import fold_constants
from graphopt.pipeline.driver import constant_bytes
from tests.passes.harness import assert_same, body, check, lift, ops, parse, rewrite

ACME = '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>'


def test_dead_chain_goes_and_strangers_stay():
    before = lift(
        f"""{ACME} g (float[N] x) => (float[N] y) {{
      a = Exp(x)
      b = Sqrt(a)
      c = acme.Print(x)
      d = acme.Print(b)
      e = Neg(d)
      y = Relu(x)
    }}"""
    )
    after, changes = rewrite(before, remove_dead_nodes)
    assert (changes, ops(after)) == (1, ["Exp", "Sqrt", "acme::Print", "acme::Print", "Relu"])


BRANCHES = """
g (bool c, float[4] x) => (float[4] y) {
  a = Exp(x)
  b = Sqrt(x)
  y, z = If(c) <
    then_branch = p () => (float[4] p1, float[4] p2) { u = Neg(a)
      p1 = Relu(x)
      p2 = Relu(u) },
    else_branch = q () => (float[4] q1, float[4] q2) { dead = Neg(b)
      q1 = Neg(x)
      q2 = Identity(x) }
  >
}"""


def test_unused_results_of_if_go_with_what_computes_them_in_and_outside_of_the_branches():
    before = lift(BRANCHES)
    after, _ = rewrite(before, remove_dead_nodes)
    assert ops(after) == ["If", "Relu", "Neg"]
    assert_same(before, after)


def test_if_keeps_results_that_are_used():
    before = lift(BRANCHES.replace("(float[4] y) {", "(float[4] y, float[4] z) {", 1))
    after, _ = rewrite(before, remove_dead_nodes)
    assert ops(after).count("If") == 1 and len(after.graph.outputs) == 2 and "Sqrt" not in ops(after)
    assert_same(before, after)


def test_equal_nodes_merge_also_from_nested_graphs_and_in_either_order_of_a_sum():
    before = lift(
        """
    g (bool c, float[4] x, float[4] z) => (float[4] y) {
      a = Add(x, z)
      b = Add(z, x)
      m = Mul(a, b)
      s = If(c) <
        then_branch = p () => (float[4] p1) { u = Add(x, z)
          p1 = Exp(u) },
        else_branch = q () => (float[4] q1) { u2 = Sub(x, z)
          q1 = Exp(u2) }
      >
      d = Sub(x, z)
      t = Mul(s, m)
      y = Mul(t, d)
    }"""
    )
    after, changes = rewrite(before, merge_common_subexpressions)
    assert (changes, ops(after)) == (2, ["Add", "Mul", "If", "Exp", "Sub", "Exp", "Sub", "Mul", "Mul"])
    assert_same(before, after)


def test_siblings_do_not_share_what_only_one_branch_computes():
    before = lift(
        """
    g (bool c, float[4] x) => (float[4] y) {
      y = If(c) <
        then_branch = p () => (float[4] p1) { u = Exp(x)
          p1 = Neg(u) },
        else_branch = q () => (float[4] q1) { v = Exp(x)
          q1 = Relu(v) }
      >
    }"""
    )
    assert rewrite(before, merge_common_subexpressions)[1] == 0


def test_other_attributes_other_order_and_random_nodes_are_different():
    before = lift(
        """
    g (float[3,3] x, float[3,3] z) => (float[3,3] y) {
      a = Softmax<axis = 0>(x)
      b = Softmax<axis = 1>(x)
      c = Sub(x, z)
      d = Sub(z, x)
      e = RandomNormalLike(x)
      f = RandomNormalLike(x)
      y = Sum(a, b, c, d, e, f)
    }"""
    )
    assert rewrite(before, merge_common_subexpressions)[1] == 0


def test_results_of_a_graph_stay_two():
    text = check("g (float[4] x) => (float[4] y, float[4] z) { y = Exp(x)\n z = Exp(x) }", merge_common_subexpressions)
    assert text.splitlines()[-1] == "return %y, %z"


TWINS = """
g (float[N,64] x) => (float[N,64] y) <float[64,64] a, float[64,64] b, float[64,64] c, float[4096] d> {
  p = MatMul(x, a)
  q = MatMul(p, b)
  y = MatMul(q, c)
}"""


def test_identical_constants_merge_and_shape_and_dtype_count():
    w = np.random.default_rng(0).standard_normal((64, 64))
    other = w.copy()
    other[20, 20] += 1
    before = lift(TWINS, a=w, b=w, c=other)
    after, changes = rewrite(before, merge_identical_constants)
    assert changes == 1 and constant_bytes(after) == 2 * 64 * 64 * 4
    assert_same(before, after)


def test_signs_of_zero_and_nan_are_compared_by_bits():
    text = """
    g (float[2] x) => (float[2] y) <float[2] a, float[2] b, float[2] c, float[2] d> {
      p = Add(x, a)
      q = Add(p, b)
      r = Add(q, c)
      y = Add(r, d)
    }"""
    before = lift(text, a=[0.0, 1], b=[-0.0, 1], c=[np.nan, 1], d=[np.nan, 1])
    assert rewrite(before, merge_identical_constants)[1] == 1


def test_constants_of_a_type_of_their_own_are_not_read():
    model = lift(TWINS)
    reads = []
    for node in model.graph:
        value = node.inputs[1]
        shape = (64, 64 + len(reads)) if node.op == "Nothing" else value.constant.shape
        array = value.constant.array()
        value.constant = Constant(value.constant.dtype, shape, lambda a=array: reads.append(1) or a)
    node = next(iter(model.graph))
    for other in list(model.graph)[1:]:
        model.graph.set_input(other, 1, node.inputs[1])
    assert rewrite(model, merge_identical_constants)[1] == 0
    assert not reads


def test_strings_merge():
    proto = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    assert proto.graph.node
    text = '<ir_version: 8, opset_import: ["" : 17]> g (int64 i) => (string a, string b) { ' \
        's = Constant<value_strings = ["u", "v"]>()\n t = Constant<value_strings = ["u", "v"]>()\n' \
        ' a = Gather(s, i)\n b = Gather(t, i) }'  # fmt: skip
    after, changes = rewrite(lift(text), merge_identical_constants)
    assert changes == 1 and to_text(after.graph).count("Gather(@s") == 2, body(after)


TIED = """g (int64[N] i, float[N,512] x) => (float[a,b] e, float[c,d] y) <float[600,512] table, float[512,600] head> {
  e = Gather(table, i)
  y = MatMul(x, head)
}"""


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
def test_a_head_that_is_its_table_transposed_is_stored_once(target):
    table = np.random.default_rng(0).standard_normal((600, 512)).astype(np.float32)
    before = lift(TIED, table=table, head=table.T)
    after, changes = rewrite(before, tie_heads, target=target)
    assert changes == 1 and ops(after) == ["Gather", "Transpose", "MatMul"]
    assert_same(before, after)
    folded, _ = rewrite(before, tie_heads, fold_constants, target=target, size_limit=table.nbytes + 4096)
    assert "Transpose" in ops(folded)  # folding would store the copy again
    assert rewrite(before, tie_heads, target="graphopt")[1] == 0


def test_heads_of_their_own_and_small_ones_stay():
    table = np.random.default_rng(0).standard_normal((600, 512)).astype(np.float32)
    other = table.T.copy()
    other[-1, -1] += 1
    assert rewrite(lift(TIED, table=table, head=other), tie_heads)[1] == 0
    small = TIED.replace("600", "60").replace("512", "16")
    assert rewrite(lift(small, table=table[:60, :16], head=table[:60, :16].T), tie_heads)[1] == 0
