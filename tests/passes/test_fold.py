"""Constant folding: what fires, what must stay, and that the budget holds."""

import numpy as np
import pytest

from graphopt.passes.fold.constants import fold_constants
from graphopt.pipeline.driver import constant_bytes
from tests.passes.harness import assert_same, check, lift, ops, rewrite

CHAIN = """
g (float[N,4] x) => (float[N,4] y) <int64[2] s = {4, 1}, float[4] w> {
  t = Reshape(w, s)
  u = Transpose<perm = [1, 0]>(t)
  v = Exp(u)
  y = Add(x, v)
}"""


def test_chain_of_constants_becomes_one():
    assert check(CHAIN, fold_constants).count("\n") == 1


def test_folded_values_are_those_of_onnxruntime_bit_for_bit():
    before = lift(CHAIN)
    after, _ = rewrite(before, fold_constants)
    assert_same(before, after, rtol=0)


def test_shape_of_known_sizes_is_a_constant_and_types_follow():
    text = check(
        """
    g (float[2,3,4] x) => (float[a,b] y) <int64[1] two = {2}, int64[1] rest = {-1}> {
      s = Shape<start = 0, end = 1>(x)
      shape = Concat<axis = 0>(s, rest)
      r = Reshape(x, shape)
      t = Shape(r)
      y = Expand(r, t)
    }""",
        fold_constants,
    )
    assert text.splitlines() == [
        "%r = Reshape(%x, @shape=i64[2](2, -1))", "%y = Expand(%r, @t=i64[2](2, 12))", "return %y",
    ]  # fmt: skip


def test_constants_in_nested_graphs_are_folded():
    before = lift(
        """
    g (bool c, float[4] x) => (float[4] y) <float[4] w> {
      v = Exp(w)
      y = If(c) <
        then_branch = a () => (float[4] p) { q = Sqrt(v)
          p = Add(x, q) },
        else_branch = b () => (float[4] r) { z = Constant<value = float[4] {1.0, 2.0, 3.0, 4.0}>()
          s = Neg(z)
          r = Mul(x, s) }
      >
    }"""
    )
    after, _ = rewrite(before, fold_constants)
    assert_same(before, after)
    assert ops(after) == ["If", "Add", "Mul"]


GROWS = """
g (float[N] x) => (float[300,300] y, float[4] z) <int64[2] s = {300, 100}, int64[2] t = {0, 200}, float[4] w> {
  n = Add(s, t)
  c = ConstantOfShape(n)
  y = Add(c, x)
  z = Exp(w)
}"""


def test_what_would_grow_the_file_stays_and_the_rest_folds():
    before = lift(GROWS)
    limit = constant_bytes(before) + 4096
    after, _ = rewrite(before, fold_constants, size_limit=limit)
    assert_same(before, after, sizes=(1,))
    assert ops(after) == ["ConstantOfShape", "Add"]
    assert constant_bytes(after) <= limit
    free, _ = rewrite(lift(GROWS), fold_constants)
    assert ops(free) == ["Add"]


def test_large_intermediate_that_shrinks_again_is_folded():
    before = lift(
        """
    g (float[N] x) => (float[N] y) <int64[1] s = {5000}, int64[1] axes = {0}> {
      c = ConstantOfShape<value = float[1] {2.0}>(s)
      r = ReduceSum<keepdims = 0>(c, axes)
      y = Mul(x, r)
    }"""
    )
    after, _ = rewrite(before, fold_constants, size_limit=constant_bytes(before))
    assert ops(after) == ["Mul"]
    assert_same(before, after)


@pytest.mark.parametrize(
    "nodes",
    [
        "v = Cast<to = 1>(w)\n u = Mul(v, s)",
        "u = DequantizeLinear(w, s)",
        "v = Transpose<perm = [1, 0]>(w)\n v2 = Transpose<perm = [1, 0]>(v)\n u = DequantizeLinear(v2, s)",
    ],
)
def test_weights_stored_in_int8_stay_int8(nodes):
    text = f"g (float[N,64] x) => (float[N,64] y) <int8[64,64] w, float s> {{ {nodes}\n y = MatMul(x, u) }}"
    rng = np.random.default_rng(0)
    before = lift(text, w=rng.integers(-9, 9, (64, 64)), s=np.float32(0.5))
    after, _ = rewrite(before, fold_constants)
    assert constant_bytes(after) == constant_bytes(before)
    assert "Transpose" not in ops(after)
    assert ("Cast" in ops(after)) or ("DequantizeLinear" in ops(after))
    assert_same(before, after)


def test_random_operators_are_never_folded():
    before = lift(
        """
    g (float[N,3] x) => (float[N,3] y) <int64[1] s = {3}, float[3] w> {
      r = RandomNormalLike(w)
      y = Add(x, r)
    }"""
    )
    after, changes = rewrite(before, fold_constants)
    assert changes == 0 and ops(after) == ["RandomNormalLike", "Add"]


def test_node_that_onnxruntime_refuses_stays_and_others_fold():
    """Gather beyond the end fails when it runs; its neighbours are evaluated one by one."""
    before = lift(
        """
    g (float[N] x) => (float[N] y, float[N] z) <float[3] w, int64 i = {7}, float[1] v> {
      a = Exp(v)
      b = Gather(w, i)
      c = Exp(b)
      y = Add(x, a)
      z = Add(x, c)
    }"""
    )
    after, _ = rewrite(before, fold_constants)
    assert ops(after) == ["Gather", "Exp", "Add", "Add"]


def test_overridable_initializer_is_no_constant():
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    graph = "g (float[2] x, float[2] w = {1.0, 2.0}) => (float[2] y) { v = Exp(w)\n y = Add(x, v) }"
    before = lift(header + graph)
    _, changes = rewrite(before, fold_constants)
    assert changes == 0


def test_unknown_operator_stays():
    header = '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>'
    before = lift(f"{header} g (float[2] x) => (float[2] y) <float[2] w> {{ v = acme.Mystery(w)\n y = Add(x, v) }}")
    _, changes = rewrite(before, fold_constants)
    assert changes == 0


def test_long_chains_of_growth_trim_to_the_limit():
    """Every result of a chain is as large as the last; none may stay stored."""
    before = lift(
        """
    g (float[N,100] x) => (float[100,100] y) <int64[2] s = {100, 100}> {
      a = ConstantOfShape<value = float[1] {2.0}>(s)
      b = Exp(a)
      c = Sqrt(b)
      y = Add(c, x)
    }"""
    )
    limit = constant_bytes(before) + 4096
    after, _ = rewrite(before, fold_constants, size_limit=limit)
    assert ops(after) == ["ConstantOfShape", "Exp", "Sqrt", "Add"]
    assert_same(before, after, sizes=(1,))
