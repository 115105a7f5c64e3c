"""Functions of one float32 element against numpy: bit for bit where they are arithmetic, else to rounding."""

from __future__ import annotations

from collections.abc import Callable
from math import erf
from typing import Any, get_args

import numpy as np
import pytest

from graphopt.kernels import available_levels, run_routine
from graphopt.kernels.elementwise.functions import FloatFunctionName, prepare_float_function
from tests.kernels import naive

LEVELS = [level.name for level in available_levels()]
GELU = (2 * (2 / np.pi) ** 0.5, 2 * (2 / np.pi) ** 0.5 * 0.044715)


def gated(x: Any, a: float, b: float) -> Any:
    return np.where(x == -np.inf, np.nan, x / (1 + np.exp(-a * x - (b * x**3 if b else 0))))


EXACT: dict[str, Callable[..., Any]] = {
    "sqrt": lambda x, a, b: np.sqrt(x), "reciprocal": lambda x, a, b: np.float32(1) / x,
    "negative": lambda x, a, b: -x, "absolute": lambda x, a, b: np.abs(x),
    "leaky": lambda x, a, b: np.where(x < 0, a * x, x),
    "hard_swish": lambda x, a, b: x * np.clip(a * x + b, np.float32(0), np.float32(1)),
    "number": lambda x, a, b: np.where(np.isnan(x), a, x),
}  # fmt: skip
NEAR: dict[str, Callable[..., Any]] = {
    "sigmoid": lambda x, a, b: 1 / (1 + np.exp(-a * x)), "gated": gated, "tanh": lambda x, a, b: np.tanh(x),
    "exp": lambda x, a, b: np.exp(x), "erf": lambda x, a, b: np.vectorize(erf, otypes=[float])(x),
    "elu": lambda x, a, b: np.where(x < 0, a * np.expm1(x), x),
}  # fmt: skip
CASES: list[tuple[FloatFunctionName, float, float]] = [
    ("sigmoid", 1.0, 0.0), ("sigmoid", 1.702, 0.0), ("gated", 1.0, 0.0), ("gated", 1.702, 0.0), ("gated", *GELU),
    ("tanh", 0.0, 0.0), ("exp", 0.0, 0.0), ("erf", 0.0, 0.0), ("sqrt", 0.0, 0.0), ("reciprocal", 0.0, 0.0),
    ("negative", 0.0, 0.0), ("absolute", 0.0, 0.0), ("leaky", 0.1, 0.0), ("elu", 1.3, 0.0),
    ("hard_swish", 1 / 6, 0.5), ("number", 0.25, 0.0),
]  # fmt: skip


def test_every_function_has_a_case() -> None:
    assert {name for name, _, _ in CASES} == {*get_args(FloatFunctionName)} == {*EXACT, *NEAR}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("function,a,b", CASES)
def test_every_element(level: str, function: FloatFunctionName, a: float, b: float, monkeypatch: Any) -> None:
    monkeypatch.setenv("GRAPHOPT_ISA", level)
    rng = np.random.default_rng(7)
    wide = np.concatenate([rng.normal(0, 3, 5000), rng.normal(0, 30, 3000), rng.normal(0, 1e-3, 1000)])
    far = np.concatenate([np.linspace(87, 89, 99), -np.linspace(86, 105, 99), [1e20, -1e20, 3e38, -3e38, 1e-30, -1e30]])
    odd = [0.0, -0.0, np.inf, -np.inf, np.nan]
    x = naive.placed(np.concatenate([wide, far, odd]).astype(np.float32))
    y = naive.empty((len(x),), np.float32)
    run_routine(prepare_float_function(function, len(x), a, b), {"x": x, "y": y}, workers=2)
    with np.errstate(all="ignore"):
        if function in EXACT:
            np.testing.assert_array_equal(y, EXACT[function](x, np.float32(a), np.float32(b)))
            return
        want = NEAR[function](x.astype(np.float64), a, b).astype(np.float32)
    np.testing.assert_allclose(y, want, rtol=2e-6, atol=4e-7)


@pytest.mark.parametrize("count", [0, 1, 17, 4097])
def test_counts(count: int) -> None:
    x = naive.placed(np.linspace(-3, 3, count, dtype=np.float32))
    memory = naive.empty((count + 1,), np.float32)
    run_routine(prepare_float_function("negative", count), {"x": x, "y": memory})
    np.testing.assert_array_equal(memory[:-1], -x)
    assert memory[-1:].view(np.uint32)[0] == 0x5A5A5A5A, "wrote beyond its buffer"
