"""Einsum becomes the product, permutation or sum that it is, in the fewest steps; what is more than that stays."""

import pytest

from graphopt.passes.fuse import fuse_operators
from tests.passes.harness import assert_same, lift, ops, rewrite

PRODUCTS = {
    "ij,jk->ik": ["MatMul"],
    "bsk,kn->bsn": ["MatMul"],
    "bsk,nk->bsn": ["Transpose", "MatMul"],
    "kn,bsk->bsn": ["MatMul"],
    "bsk,k->bs": ["MatMul"],
    "ij,kj->ki": ["Transpose", "MatMul"],
    "bhqd,bhkd->bhqk": ["Transpose", "MatMul"],
    "bhqk,bhkd->bhqd": ["MatMul"],
    "bqhd,bkhd->bhqk": ["Transpose", "Transpose", "MatMul"],
    "bhqk,bkhd->bqhd": ["Transpose", "MatMul", "Transpose"],
    "bij,bjk->bki": ["MatMul", "Transpose"],
    "ij , jk": ["MatMul"],
    "bij,bij->bij": ["Mul"],
}
STAYS = ("bij,bij->b", "i,j->ij", "bij,bjkl->bikl", "...ij,...jk->...ik", "bii,bij->bj", "bij,jk->ik")
ONE = {"bij->bji": ["Transpose"], "bij->ib": ["ReduceSum", "Transpose"], "bij->b": ["ReduceSum"], "bij": ["Identity"]}
SIZES = dict(zip("bhijklnqsd", (2, 3, 4, 5, 6, 7, 8, 9, 10, 11)))
AXES = dict(zip("bhijklnqsd", "BHIJKLNQSD"))


def model(equation, opset=17, named=True, dtype="float"):
    terms = equation.replace(" ", "").partition("->")[0].replace("...", "b").split(",")
    inputs = [f"{dtype}[{','.join(AXES[c] if named else str(SIZES[c]) for c in term)}] x{i}"
              for i, term in enumerate(terms) if term]  # fmt: skip
    operands = ", ".join(f"x{i}" for i in range(len(inputs)))
    made = equation.replace(" ", "").partition("->")[2] or ("ik" if "," in equation else equation)
    result = f"{dtype}[{','.join(f'o{i}' for i in range(len(made)))}] y"
    return lift(f'g ({", ".join(inputs)}) => ({result}) {{ y = Einsum<equation = "{equation}">({operands}) }}', opset)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("equation", PRODUCTS)
def test_products_are_products(equation, named):
    before = model(equation, named=named)
    after, changes = rewrite(before, fuse_operators)
    assert (changes, ops(after)) == (1, PRODUCTS[equation])
    assert_same(before, after, sizes=(1, 3))


@pytest.mark.parametrize("equation", ONE)
def test_one_operand_is_permuted_and_summed(equation):
    before = model(equation)
    after, changes = rewrite(before, fuse_operators)
    assert (changes, ops(after)) == (1, ONE[equation])
    assert_same(before, after)


@pytest.mark.parametrize("equation", STAYS)
def test_other_equations_stay(equation):
    assert rewrite(model(equation), fuse_operators)[1] == 0


def test_an_axis_that_may_be_broadcast_stays():
    text = 'g (float[A,B] x, float[C,D] z) => (float[e,f] y) { y = Einsum<equation = "ij,jk->ik">(x, z) }'
    assert rewrite(lift(text), fuse_operators)[1] == 0


def test_integers_and_three_operands_stay():
    text = 'g (float[A,B] x, float[B,C] z) => (float[e,f] y) { y = Einsum<equation = "ij,jk,kl->il">(x, z, z) }'
    assert rewrite(lift(text), fuse_operators)[1] == 0
    assert rewrite(model("ij,jk->ik", dtype="int32"), fuse_operators)[1] == 0
