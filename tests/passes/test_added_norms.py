"""Sums before norms in one operator of onnxruntime: both results equal; other sums stay."""

import pytest

from graphopt.passes.convert.added_norms import add_in_norms
from graphopt.pipeline.passes import Pass
from tests.passes.harness import assert_same, lift, ops, rewrite

TEXT = """g (float[B,S,8] x, float[B,S,8] y, float[8] given) => (float[B,S,8] z, float[B,S,8] later) <
    float[8] gain, float[1,1,8] bias> {{
  s = Add({sum})
  before = Neg(s)
  {norm}
  z = Mul(n, before)
  later = Add(s, n)
}}"""
NORM = "n = RMSNormalization<axis = {axis}, epsilon = 0.001>(s, {gain})"
PASS = Pass("added-norms", add_in_norms)
FUSED = "com.microsoft::SkipSimplifiedLayerNormalization"


def text(sum="x, y", norm=NORM, axis=2, gain="gain"):
    return TEXT.format(sum=sum, norm=norm.format(axis=axis, gain=gain))


@pytest.mark.parametrize("axis", [2, -1])
def test_the_sum_is_read_before_and_behind_its_norm(axis):
    before = lift(text(axis=axis), 23)
    after, changes = rewrite(before, PASS, target="onnxruntime")
    assert changes == 1 and ops(after) == [FUSED, "Neg", "Mul", "Add"]
    assert_same(before, after)


STAYS = {
    "a bias": text(sum="x, bias"),
    "a gain that is an input": text(gain="given"),
    "a norm over more than the last axis": text(axis=1, gain="full_gain").replace(
        "float[8] gain", "float[3,8] full_gain"
    ).replace("[B,S,8]", "[B,3,8]"),
    "rows without a batch": text().replace("[B,S,8]", "[S,8]").replace("axis = 2", "axis = 1"),
    "another norm": text(norm="n = LayerNormalization<axis = {axis}>(s, {gain})"),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_other_sums_stay(name):
    before = lift(STAYS[name], 23)
    after, changes = rewrite(before, PASS, target="onnxruntime")
    assert changes == 0 and ops(after) == ops(before)
