"""LayerNormalization against its definition in float64: float results to rounding, codes to one step near a tie."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.kernels import run_routine
from graphopt.kernels.normalization.layer_norm import prepare_layer_norm
from graphopt.kernels.tensors.quantization import Quantization
from tests.kernels import naive


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9), columns=st.sampled_from([1, 2, 3, 63, 64, 65, 127, 384, 1000]),
    style=st.sampled_from(["normal", "constant", "far"]), biased=st.booleans(), signed=st.booleans(),
    zero=st.integers(0, 255), seed=st.integers(0, 999),
)  # fmt: skip
def test_layer_norm(rows: int, columns: int, style: str, biased: bool, signed: bool, zero: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = {
        "normal": rng.normal(size=(rows, columns)), "constant": np.full((rows, columns), 3.25),
        "far": rng.normal(100, 1, (rows, columns)),
    }[style].astype(np.float32)  # fmt: skip
    scale = rng.normal(1, 0.5, columns).astype(np.float32)
    bias = rng.normal(size=columns).astype(np.float32) if biased else None
    y = Quantization(0.031, zero - (128 if signed else 0), signed)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    real = centred / np.sqrt(np.square(centred).mean(1, keepdims=True) + 1e-5) * scale + (0 if bias is None else bias)
    out, codes = naive.empty(x.shape, np.float32), naive.empty(x.shape, y.dtype)
    run_routine(prepare_layer_norm(rows, columns, scale, bias, 1e-5), {"x": naive.placed(x), "y": out})
    deviation = np.sqrt(np.square(centred).mean(1, keepdims=True) + 1e-5)
    rounding = 4 * np.spacing(np.abs(x).max(1, keepdims=True)) / deviation * np.abs(scale)  # of the mean, in float32
    assert np.all(np.abs(out - real) <= rounding + 6e-6 * (1 + np.abs(real)))
    routine = prepare_layer_norm(rows, columns, scale, bias, 1e-5, y)
    run_routine(routine, {"x": naive.placed(x), "y": codes}, workers=1 + seed % 2)
    np.testing.assert_array_equal(codes, naive.quantize(out, y.scale, y.zero_point, y.dtype))


def test_what_is_not_finite_stays_in_its_row() -> None:
    x = np.random.default_rng(0).normal(size=(3, 70)).astype(np.float32)
    x[1, 5] = np.nan
    y, q = naive.empty(x.shape, np.uint8), Quantization(0.05, 7)
    run_routine(prepare_layer_norm(3, 70, np.ones(70), None, 1e-5, q), {"x": naive.placed(x), "y": y})
    assert np.all(y[1] == 7)
    assert len(np.unique(y[0])) > 9
    assert prepare_layer_norm(0, 4, np.ones(4), None, 1e-5).steps == ()
