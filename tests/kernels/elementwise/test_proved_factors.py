"""Factors that stand for divisions are right for every pair of codes, and are refused where they are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.kernels.elementwise.proved_factors import BinaryOp, proved_factors
from graphopt.kernels.tensors.quantization import Quantization

OPERATIONS = st.sampled_from(["add", "subtract", "multiply"])


def quantizations(least: float = 2**-10, greatest: float = 2.0) -> st.SearchStrategy[Quantization]:
    scales = st.floats(least, greatest, width=32)
    return st.builds(lambda scale, zero: Quantization(scale, zero), scales, st.integers(0, 255))


@settings(max_examples=60, deadline=None)
@given(op=OPERATIONS, a=quantizations(), b=quantizations(), y=quantizations())
def test_every_pair_of_codes(op: BinaryOp, a: Quantization, b: Quantization, y: Quantization) -> None:
    factors = proved_factors(op, a, b, y)
    if factors is None:
        return
    left, right = a.codes()[:, None], b.codes()[None, :]
    want = y.quantize(getattr(np, op)(a.dequantize(left), b.dequantize(right)))
    p, q = (np.float32(f) for f in factors)
    u, v = ((codes.astype(np.int32) - x.zero_point).astype(np.float32) for codes, x in ((left, a), (right, b)))
    found = np.clip(np.rint(getattr(np, op)(u * p, v * q)), y.low - y.zero_point, y.high - y.zero_point)
    np.testing.assert_array_equal(found + y.zero_point, want)


def test_nearly_all_scales_are_proven() -> None:
    rng = np.random.default_rng(0)
    proven = 0
    for _ in range(60):
        a, b = (Quantization(float(s), int(z)) for s, z in zip(rng.uniform(0.005, 0.1, 2), rng.integers(0, 256, 2)))
        proven += proved_factors("add", a, b, Quantization((a.scale + b.scale) * 0.7, 100)) is not None
    assert proven >= 50


@pytest.mark.parametrize("scale", [2.0**-149, 3e38])
def test_scales_at_the_ends(scale: float) -> None:
    """Where a quotient overflows or is subnormal nothing is claimed, or it is right."""
    tiny, one = Quantization(scale, 3), Quantization(1.0, 128)
    for a, b, y in ((tiny, one, one), (one, tiny, one), (one, one, tiny)):
        factors = proved_factors("add", a, b, y)
        if factors is not None:
            assert all(np.isfinite(f) and f > 0 for f in factors)
