"""Mutated rules change results, bisection names them, few nodes show it. `python -m tests.mutants` judges twenty."""

import inspect

import pytest

from graphopt.passes.fold.affine import add_into_conv
from graphopt.passes.fold.batchnorm import affine, fold_norm_into_conv
from graphopt.passes.fuse.softmax import fuse_softmax

from .mutator import KINDS, mutants
from .trials import all_mutants, drawn, judge, users_of

KNOWN = {
    "affine: (var + eps) -> (var - eps)": (affine, "operator", "epsilon"),
    "affine: the mean added": (affine, "operator", "mean"),
    "the sum subtracted": (add_into_conv.handler, "operator", "channel_bias(b, channels) + moved"),
}


def find(function, kind, text):
    return next(m for m in mutants(function) if m.kind == kind and text in m.told)


@pytest.mark.parametrize("name", KNOWN)
def test_bisection_names_the_mutated_rule(name):
    verdict = judge(find(*KNOWN[name]), 120)
    assert verdict.status == "changes" and verdict.named, verdict
    assert verdict.nodes is not None and verdict.nodes <= 10


def test_a_mutant_lives_only_inside_its_block():
    mutant = find(affine, "operator", "mean")
    original = affine.__code__
    with mutant.alive():
        assert affine.__code__ is not original
    assert affine.__code__ is original
    assert inspect.getsource(affine)


def test_an_equivalent_mutant_is_the_same():
    mutant = find(affine, "guard", "'spatial'")  # an attribute that is gone since opset 9
    assert judge(mutant, 20).status == "same"


def test_users_are_found_through_helpers_of_other_modules():
    rules = users_of(affine).rules
    assert {"fold_norm_into_conv", "fold_norm_into_gemm"} <= rules
    assert fold_norm_into_conv.name in rules and fuse_softmax[0].name not in rules


def test_every_kind_is_drawn():
    assert [m.kind for m in drawn(0, 8)] == [*KINDS, *KINDS]
    assert [str(m) for m in drawn(3, 12)] == [str(m) for m in drawn(3, 12)]
    assert len(all_mutants()) > 500
