"""Rules of differentiation, a file a family; each rule's docstring is its equation, g being the cotangent of y."""

from __future__ import annotations

from ..call import Rule
from . import (
    arithmetic,
    control,
    convolution,
    elementwise,
    fourier,
    indexing,
    movement,
    normalization,
    pooling,
    products,
    quantization,
    recurrent,
    reductions,
    sampling,
)

RULES: dict[str, Rule] = {
    **elementwise.RULES, **arithmetic.RULES, **reductions.RULES, **products.RULES, **convolution.RULES,
    **normalization.RULES, **pooling.RULES, **movement.RULES, **indexing.RULES, **fourier.RULES,
    **quantization.RULES, **sampling.RULES, **control.RULES, **recurrent.RULES,
}  # fmt: skip
"""The differentiation rule of each supported operator."""

CONSTANT = frozenset((
    "Floor", "Ceil", "Round", "Sign", "Shape", "Size", "ConstantOfShape", "EyeLike", "ArgMax", "ArgMin", "NonZero",
    "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Not", "And", "Or", "Xor", "IsNaN", "IsInf", "Hardmax",
    "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
))  # fmt: skip
"""Operators whose result is constant almost everywhere, or does not depend on the elements of their operand."""

__all__ = ["CONSTANT", "RULES"]
