"""Products of two activations equal the oracle, bit for bit, on every level: batches, strides, zeros, extremes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.kernels import run_routine
from graphopt.kernels.core.levels import Level
from graphopt.kernels.products.activation_product import MAX_DEPTH, prepare_activation_product
from graphopt.kernels.products.epilogue import Accumulate, FloatOutput, Requantize
from graphopt.kernels.products.matmul_conv import Activations
from graphopt.kernels.products.tiles import Strides
from tests.kernels import naive
from tests.kernels.products.test_matmul_conv import draw_integers, dtypes, every_level, styles


@st.composite
def products(draw: Any) -> dict[str, Any]:
    return {
        "batch": draw(st.sampled_from([(1, 1), (1, 3), (2, 1), (2, 3)])),
        "sizes": (
            draw(st.sampled_from([1, 2, 5, 7, 8, 9, 17, 31, 65, 130])),
            draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 33, 64, 100])),
            draw(st.sampled_from([1, 3, 8, 15, 16, 17, 31, 32, 33, 40, 65])),
        ),
        "transposed": draw(st.booleans()),
        "merged": draw(st.booleans()),
        "repeated": draw(st.booleans()),
        "dtypes": draw(st.tuples(dtypes, dtypes, dtypes)),
        "styles": draw(st.tuples(styles, styles)),
        "zeros": draw(st.tuples(*[st.sampled_from([0, 1, 77, 127, 128, 255])] * 3)),
        "output": draw(st.sampled_from(["codes", "limits", "sums", "floats"])),
        "workers": draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 999)),
    }


def zero(dtype: Any, number: int) -> int:
    return number - 128 if dtype == np.int8 else number


def check(case: dict[str, Any], level: Level) -> None:
    rng = np.random.default_rng(case["seed"])
    (outer, inner), (m, k, n) = case["batch"], case["sizes"]
    da, db, dy = case["dtypes"]
    za, zb, zy = (zero(dtype, number) for dtype, number in zip(case["dtypes"], case["zeros"]))
    a = draw_integers(rng, da, (outer, inner, m, k), case["styles"][0])
    b = draw_integers(rng, db, (1 if case["repeated"] else outer, inner, k, n), case["styles"][1])
    sums = ((a.astype(np.int64) - za) @ (b.astype(np.int64) - zb)).astype(np.int32)
    scale = np.float32(rng.uniform(0.2, 3) / max(1.0, float(np.abs(sums).mean()) / 60))
    low, high = (max(zy - 20, zero(dy, 0)), min(zy + 9, zero(dy, 255))) if case["output"] == "limits" else (None, None)
    output: Any = {"sums": Accumulate(), "floats": FloatOutput(scale)}.get(
        case["output"], Requantize(scale, zy, dy, low, high)
    )
    want: Any = {"sums": sums, "floats": sums.astype(np.float32) * scale}.get(
        case["output"], naive.requantize(sums, np.asarray(scale), zy, dy, low, high)
    )
    if case["merged"]:  # as heads lie beside each other before they are transposed
        stored_a, at_a = a.transpose(0, 2, 1, 3), Strides(m * inner * k, k, inner * k, 1)
        y, at_y = naive.empty((outer, m, inner, n), want.dtype), Strides(m * inner * n, n, inner * n, 1)
    else:
        stored_a, at_a = a, Strides(inner * m * k, m * k, k, 1)
        y, at_y = naive.empty((outer, inner, m, n), want.dtype), Strides(inner * m * n, m * n, n, 1)
    stored_b, at_b = b, Strides(inner * k * n, k * n, n, 1)
    if case["transposed"]:
        stored_b, at_b = b.transpose(0, 1, 3, 2), Strides(inner * k * n, k * n, 1, k)
    if case["repeated"]:
        at_b = Strides(0, at_b.inner, at_b.row, at_b.column)
    routine = prepare_activation_product(
        (outer, inner), (m, k, n), Activations(da, za), Activations(db, zb), output, (at_a, at_b, at_y), level=level
    )
    run_routine(routine, {"a": naive.placed(stored_a), "b": naive.placed(stored_b), "y": y}, workers=case["workers"])
    np.testing.assert_array_equal(y.transpose(0, 2, 1, 3) if case["merged"] else y, want)


@every_level
@settings(max_examples=100, deadline=None)
@given(case=products())
def test_equals_the_oracle(level: Level, case: dict[str, Any]) -> None:
    check(case, level)


@every_level
def test_extremes_do_not_saturate(level: Level) -> None:
    """All 255 · −128 and all 255 · 255: the largest sums there are."""
    for style in ("highest", "lowest"):
        case = {
            "batch": (1, 2), "sizes": (9, 300, 33), "transposed": style == "lowest", "merged": False, "repeated": False,
            "dtypes": (np.uint8, np.uint8 if style == "highest" else np.int8, np.uint8), "styles": ("highest", style),
            "zeros": (0, 0 if style == "highest" else 128, 3), "output": "sums", "workers": 1, "seed": 0,
        }  # fmt: skip
        check(case, level)


def test_declines_what_it_cannot_do() -> None:
    codes, dense = Activations(np.uint8, 0), Strides(0, 0, 4, 1)
    with pytest.raises(ValueError, match="no kernel"):
        prepare_activation_product((1, 1), (4, MAX_DEPTH + 1, 4), codes, codes, Accumulate(), (dense, dense, dense))
    with pytest.raises(ValueError, match="no kernel"):
        prepare_activation_product((1, 1), (4, 4, 4), codes, codes, Accumulate(), (Strides(0, 0, 1, 4), dense, dense))
    empty = prepare_activation_product((1, 1), (0, 4, 4), codes, codes, Accumulate(), (dense, dense, dense))
    assert empty.steps == ()
