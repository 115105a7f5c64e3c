"""Quantize, dequantize, tables and Add, Sub, Mul against the operators' definitions, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.kernels import available_levels, run_routine
from graphopt.kernels.elementwise.codes import (
    BinaryOp,
    prepare_binary,
    prepare_dequantize,
    prepare_quantize,
    prepare_table,
)
from graphopt.kernels.tensors.quantization import Quantization
from tests.kernels import naive
from tests.kernels.naive import Array

LEVELS = [level.name for level in available_levels()]


@st.composite
def quantizations(draw: st.DrawFn) -> Quantization:
    signed = draw(st.booleans())
    zero = draw(st.integers(-128, 127)) + (0 if signed else 128)
    return Quantization(draw(st.floats(0.0078125, 10, width=32)), zero, signed)


def dequantized(x: Array, q: Quantization) -> Array:
    return (x.astype(np.int32) - q.zero_point).astype(np.float32) * np.float32(q.scale)


def codes(rng: np.random.Generator, q: Quantization, shape: tuple[int, ...]) -> Array:
    return naive.placed(rng.integers(q.low, q.high + 1, shape).astype(q.dtype))


@settings(deadline=None)
@given(q=quantizations(), count=st.integers(0, 9000), seed=st.integers(0, 999))
def test_quantize_and_dequantize(q: Quantization, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.integers(-600, 600, count) / 2 * q.scale).astype(np.float32)  # ties abound
    x[rng.random(count) < 0.01] = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e30], np.float32))
    y, back = naive.empty((count,), q.dtype), naive.empty((count,), np.float32)
    run_routine(prepare_quantize(count, q), {"x": naive.placed(x), "y": y}, workers=1 + seed % 2)
    np.testing.assert_array_equal(y, naive.quantize(x, q.scale, q.zero_point, q.dtype))
    np.testing.assert_array_equal(q.quantize(x), y)
    run_routine(prepare_dequantize(count, q), {"x": y, "y": back})
    np.testing.assert_array_equal(back, dequantized(y, q))


SHAPES = [
    ((2, 3, 5, 16), (2, 3, 5, 16)), ((2, 7, 7, 40), (2, 1, 1, 40)), ((2, 7, 7, 40), (40,)), ((2, 7, 7, 9), ()),
    ((2, 7, 7, 9), (2, 7, 7, 1)), ((2, 7, 7, 9), (1, 7, 7, 1)), ((1, 5, 3), (1, 1, 3)), ((5000,), (5000,)),
    ((0, 3, 3, 4), (0, 1, 1, 4)), ((3, 4, 4, 8), (3, 1, 1, 1)),
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    op=st.sampled_from(["add", "subtract", "multiply"]),
    shapes=st.sampled_from(SHAPES),
    a=quantizations(),
    b=quantizations(),
    y=quantizations(),
    seed=st.integers(0, 999),
)
def test_binary(
    op: BinaryOp, shapes: tuple[tuple[int, ...], tuple[int, ...]], a: Quantization, b: Quantization, y: Quantization,
    seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    first, second = codes(rng, a, shapes[0]), codes(rng, b, shapes[1])
    out = naive.empty(shapes[0], y.dtype)
    run_routine(prepare_binary(op, *shapes, a, b, y), {"a": first, "b": second, "y": out}, workers=1 + seed % 2)
    combined = getattr(np, op)(dequantized(first, a), dequantized(second, b))
    np.testing.assert_array_equal(out, naive.quantize(combined, y.scale, y.zero_point, y.dtype))


def test_shapes_that_do_not_broadcast() -> None:
    q = Quantization(1, 0)
    with pytest.raises(ValueError, match="does not broadcast"):
        prepare_binary("add", (2, 3), (2,), q, q, q)
    with pytest.raises(ValueError, match="more than one run"):
        prepare_binary("add", (2, 3, 4, 5), (1, 3, 1, 5), q, q, q)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("count", [0, 1, 63, 64, 100, 4096, 9000])
def test_table(level: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_ISA", level)
    rng = np.random.default_rng(count)
    table = rng.integers(0, 256, 256).astype(np.uint8)
    memory = naive.empty((count + 1,), np.uint8)
    x = codes(rng, Quantization(1, 0), (count,))
    run_routine(prepare_table(count, table), {"x": x, "y": memory}, workers=2)
    np.testing.assert_array_equal(memory[:-1], table[x])
    assert memory[-1] == 0x5A, "wrote beyond its buffer"
