"""exp and erf of float32 in operations that vectorize: no tables, no branches."""

# mypy: ignore-errors

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

LEAST = np.float32(-87.0)  # below it the result is exp(−87), about 1.6e-38
GREATEST = np.float32(88.0)  # above it the result is exp(88), about 1.7e38


@intrinsic
def float_of_bits(typingctx: Any, bits: Any) -> Any:
    """The float32 whose bits an int32 holds."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def bits_of_float(typingctx: Any, value: Any) -> Any:
    """The bits of a float32 as an int32."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a · b + c, rounded once where the processor can."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FloatType()
        signature_ir = ir.FunctionType(kind, [kind] * 3)
        function = builder.module.declare_intrinsic("llvm.fmuladd", (kind,), signature_ir)
        return builder.call(function, arguments)

    return types.float32(types.float32, types.float32, types.float32), codegen


@register_jitable
def powers_of_two(x):
    """n, the nearest integer to x / ln 2, as int32 in its lowest 9 bits; and exp(x − n ln 2) for |x| ≤ 4096.

    1.5 · 2²³ added to a float32 leaves its integer in the lowest bits.
    """
    shifted = multiply_add(x, np.float32(1.4426950408889634), np.float32(12582912))
    return bits_of_float(shifted), _exp_within(x, np.float32(shifted - np.float32(12582912)))


@register_jitable
def _exp_within(x, n):
    """exp(x − n ln 2) where that is between ±ln 2 / 2, ln 2 in two parts: a Taylor polynomial of degree 7."""
    r = multiply_add(n, np.float32(2.12194440e-4), multiply_add(n, np.float32(-0.693359375), x))
    p = multiply_add(np.float32(1.0 / 5040), r, np.float32(1.0 / 720))
    p = multiply_add(p, r, np.float32(1.0 / 120))
    p = multiply_add(p, r, np.float32(1.0 / 24))
    p = multiply_add(p, r, np.float32(1.0 / 6))
    p = multiply_add(p, r, np.float32(0.5))
    p = multiply_add(p, r, np.float32(1))
    return multiply_add(p, r, np.float32(1))


@register_jitable
def exp(x):
    """exp(x) to 2 units in the last place for −87 ≤ x ≤ 88, NaN for NaN."""
    v = x if x > LEAST else LEAST
    v = v if v < GREATEST else GREATEST
    n = np.float32(np.rint(np.float32(v * np.float32(1.4426950408889634))))
    power = float_of_bits(np.int32(np.int32(np.int32(n) + np.int32(127)) << np.int32(23)))
    y = np.float32(_exp_within(v, n) * power)
    return y if x == x else x


@register_jitable
def erf(x):
    """erf(x) to 3e-7 (Abramowitz and Stegun 7.1.26), NaN for NaN."""
    z = x if x > np.float32(0) else -x
    t = np.float32(np.float32(1) / multiply_add(np.float32(0.3275911), z, np.float32(1)))
    p = multiply_add(np.float32(1.061405429), t, np.float32(-1.453152027))
    p = multiply_add(p, t, np.float32(1.421413741))
    p = multiply_add(p, t, np.float32(-0.284496736))
    p = multiply_add(p, t, np.float32(0.254829592))
    y = np.float32(np.float32(1) - np.float32(np.float32(p * t) * exp(np.float32(-z * z))))
    return y if x > np.float32(0) else -y
