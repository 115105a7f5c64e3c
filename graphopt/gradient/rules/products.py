"""Matrix products: MatMul, Gemm, Einsum; and the determinant."""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_letters

import numpy as np

from ...errors import Declined
from ...ops import einsum_terms
from ..call import Call, Gradients, Rule
from ..tensor import Tensor

_LARGEST_DETERMINANT = 8
"""Largest matrix whose adjugate is computed: n matrix products, whose rounding errors grow with the powers of A."""


def matmul(call: Call) -> Gradients:
    """y = a b: da = g bᵀ, db = aᵀ g, summed over broadcast axes; one product where b is a matrix"""
    a, b, g = call.input(0), call.input(1), call.g
    rows, columns = (a.unsqueeze([0]) if a.rank == 1 else a), (b.unsqueeze([1]) if b.rank == 1 else b)
    if b.rank == 1:
        g = g.unsqueeze([g.rank])
    if a.rank == 1:
        g = g.unsqueeze([g.rank - 1])
    found: Gradients = {}
    if 0 in call.wanted:
        found[0] = _like(g @ columns.T, rows, a, 0)
    if 1 in call.wanted:
        if columns.rank == 2 and rows.rank > 2:
            inner, outer = columns.size(0), columns.size(1)
            found[1] = _like(rows.reshape([-1, inner]).T @ g.reshape([-1, outer]), columns, b, 1)
        else:
            found[1] = _like(rows.T @ g, columns, b, 1)
    return found


def _like(g: Tensor, matrix: Tensor, operand: Tensor, axis: int) -> Tensor:
    """Sum to a matrix's shape, and drop the axis added to a vector."""
    summed = g.reduced_to(matrix)
    return summed if operand.rank > 1 else summed.squeeze([axis])


def gemm(call: Call) -> Gradients:
    """y = α A′B′ + β C, where ′ transposes if asked: dA′ = α g B′ᵀ, dB′ = α A′ᵀ g, dC = β g"""
    a, b, g, w = call.input(0), call.input(1), call.g, call.writer
    ta, tb, alpha = call.attr("transA", 0), call.attr("transB", 0), call.attr("alpha", 1.0)
    found: Gradients = {}
    if 0 in call.wanted and ta:
        found[0] = w.node("Gemm", b, g, transA=tb, transB=1, alpha=alpha)
    elif 0 in call.wanted:
        found[0] = w.node("Gemm", g, b, transB=1 - tb, alpha=alpha)
    if 1 in call.wanted and tb:
        found[1] = w.node("Gemm", g, a, transA=1, transB=ta, alpha=alpha)
    elif 1 in call.wanted:
        found[1] = w.node("Gemm", a, g, transA=1 - ta, alpha=alpha)
    if 2 in call.wanted:
        beta = call.attr("beta", 1.0)
        summed = g.reduced_to(call.input(2))
        found[2] = summed if beta == 1 else summed * beta
    return found


def einsum(call: Call) -> Gradients:
    """y = einsum("i…,j…→o", a, b): da = einsum("o,j…→i…", g, b); a letter that only `a` has is a factor of ones, a
    letter twice in `a` a factor δ"""
    operands, result = _parse(call)
    found: Gradients = {}
    for slot in call.wanted:
        fresh = _fresh(operands)
        terms, factors = [result], [call.g]
        for other, letters in enumerate(operands):
            if other != slot:
                terms.append(letters)
                factors.append(call.input(other))
        known = set("".join(terms))
        wanted = ""
        x = call.input(slot)
        for axis, letter in enumerate(operands[slot]):
            size = x.size(axis)
            if letter in wanted:
                twin = next(fresh)
                square = call.writer.full(call.writer.ints([size, size]), 0.0, x.dtype)
                terms.append(letter + twin)
                factors.append(square.EyeLike())
                letter = twin
            elif letter not in known:
                terms.append(letter)
                factors.append(call.writer.full(call.writer.ints([size]), 1.0, x.dtype))
            wanted += letter
        found[slot] = call.writer.node("Einsum", *factors, equation=f"{','.join(terms)}->{wanted}")
    return found


def _fresh(operands: list[str]) -> Iterator[str]:
    used = set("".join(operands))
    return (letter for letter in ascii_letters if letter not in used)


def _parse(call: Call) -> tuple[list[str], str]:
    """The letters of each operand and of the result, an ellipsis spelled out."""
    operands, result = einsum_terms(str(call.attr("equation")))
    fresh = _fresh([*operands, result])
    spelled: list[str] | None = None
    for slot, term in enumerate(operands):
        if "..." in term:
            count = call.input(slot).rank - len(term.replace("...", ""))
            if spelled is None:
                spelled = [next(fresh) for _ in range(count)]
            elif len(spelled) != count:
                raise Declined("Einsum that broadcasts an ellipsis over operands of several ranks")
            operands[slot] = term.replace("...", "".join(spelled))
    dims: dict[str, object] = {}
    for slot, term in enumerate(operands):
        for letter, dim in zip(term, call.input(slot).dims):
            if dims.setdefault(letter, dim) != dim and 1 in (dims[letter], dim):
                raise Declined("Einsum that broadcasts an axis of size 1")
    return operands, result.replace("...", "".join(spelled or []))


def determinant(call: Call) -> Gradients:
    """y = det A: dA = g adj(A)ᵀ, also where A is singular. adj(A) = (−1)^(n−1) Mₙ with M₁ = 1 and
    Mₖ₊₁ = A Mₖ − tr(A Mₖ)/k (Faddeev and LeVerrier)"""
    a, n = call.x, call.x.dims[-1]
    if not isinstance(n, int) or n > _LARGEST_DETERMINANT:
        raise Declined(f"the determinant of matrices of size {n}")
    unit = call.writer.constant(np.eye(n), a.dtype)
    m = unit
    for k in range(1, n):
        product = a @ m
        trace = (product * unit).sum([a.rank - 2, a.rank - 1], keepdims=True)
        m = product - unit * (trace / k)
    adjugate = (m if n % 2 else -m).expand(a.shape).T
    return {0: adjugate * call.g.unsqueeze([a.rank - 2, a.rank - 1])}


RULES: dict[str, Rule] = {"MatMul": matmul, "Gemm": gemm, "Einsum": einsum, "Det": determinant}
