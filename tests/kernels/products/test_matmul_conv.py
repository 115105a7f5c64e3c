"""Matrix products and convolutions equal their oracles, bit for bit, on every level this machine can run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.kernels import run_routine
from graphopt.kernels.core.levels import Level, available_levels
from graphopt.kernels.products.epilogue import Accumulate, AddedTensor, FloatOutput, Requantize
from graphopt.kernels.products.matmul_conv import Activations, prepare_conv, prepare_matmul
from tests.kernels import naive

LEVELS = available_levels()
every_level = pytest.mark.parametrize("level", LEVELS, ids=[level.name for level in LEVELS])
dtypes = st.sampled_from([np.uint8, np.int8])


def draw_integers(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], style: str) -> naive.Array:
    info = np.iinfo(dtype)
    if style == "extreme":
        return rng.choice(np.array([info.min, info.max], dtype), shape)
    if style == "highest":
        return np.full(shape, info.max, dtype)
    if style == "lowest":
        return np.full(shape, info.min, dtype)
    if style == "small":
        return rng.integers(max(info.min, -63), 64, shape).astype(dtype)
    if style == "gaussian":
        return np.clip(np.rint(rng.normal(0, 40, shape)), max(info.min, -127), 127).astype(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


styles = st.sampled_from(["extreme", "highest", "lowest", "small", "gaussian", "uniform"])


@st.composite
def convolutions(draw: Any) -> dict[str, Any]:
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    case = {
        "groups": groups,
        "batch": draw(st.integers(1, 2)),
        "depth": draw(st.sampled_from([1, 2, 3, 4, 5, 8, 16, 17, 24, 33])),
        "outputs": draw(st.sampled_from([1, 3, 8, 15, 16, 17, 31, 32, 33, 40, 65])),
        "kernel": draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        "strides": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "dilations": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "pads": draw(st.tuples(*[st.integers(0, 3)] * 4)),
        "extra": draw(st.tuples(st.integers(0, 7), st.integers(0, 9))),
        "x_dtype": draw(dtypes),
        "w_dtype": draw(st.sampled_from([np.int8, np.int8, np.int8, np.uint8])),
        "y_dtype": draw(dtypes),
        "x_style": draw(styles),
        "w_style": draw(styles),
        "biased": draw(st.booleans()),
        "workers": draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 2**31)),
    }
    return case


@every_level
@settings(max_examples=150, deadline=None)
@given(case=convolutions(), form=st.sampled_from(["i32", "q8", "clip", "residual", "table", "f32"]))
def test_conv(level: Level, case: dict[str, Any], form: str) -> None:
    rng = np.random.default_rng(case["seed"])
    groups, outputs = case["groups"], case["outputs"] * case["groups"]
    (kh, kw), (dh, dw) = case["kernel"], case["dilations"]
    shape = (
        case["batch"],
        dh * (kh - 1) + 1 + case["extra"][0],
        dw * (kw - 1) + 1 + case["extra"][1],
        case["depth"] * groups,
    )
    x = draw_integers(rng, case["x_dtype"], shape, case["x_style"])
    w = draw_integers(rng, case["w_dtype"], (outputs, case["depth"], kh, kw), case["w_style"])
    w_zero = rng.integers(0, 256, outputs) if case["w_dtype"] == np.uint8 else np.zeros(outputs, np.int64)
    x_info = np.iinfo(case["x_dtype"])
    x_zero = int(rng.integers(x_info.min, x_info.max + 1))
    bias = rng.integers(-(2**20), 2**20, outputs).astype(np.int32) if case["biased"] else None
    geometry = {name: case[name] for name in ("strides", "pads", "dilations", "groups")}
    sums = naive.conv_sums(x, w, x_zero, w_zero, bias, **geometry)
    scale = (rng.uniform(0.5, 2, outputs) * 60 / max(1.0, float(np.abs(sums.astype(np.int64)).max()))).astype(
        np.float32
    )
    if form == "q8" and case["seed"] % 2:
        scale[:] = 0.5  # ties
    output, want = outcome(form, case["y_dtype"], rng, sums, scale)
    buffers = {"x": naive.placed(x), "y": naive.empty(sums.shape, want.dtype)}
    if form == "residual":
        buffers["residual"] = naive.placed(RESIDUALS[0])
    routine = prepare_conv(
        x.shape,
        w,
        Activations(case["x_dtype"], x_zero),
        output,
        bias=bias,
        weight_zero_point=w_zero,
        level=level,
        **geometry,
    )
    run_routine(routine, buffers, workers=case["workers"])
    np.testing.assert_array_equal(buffers["y"], want)


RESIDUALS: list[naive.Array] = []


def outcome(
    form: str, dtype: Any, rng: np.random.Generator, sums: naive.Array, scale: naive.Array
) -> tuple[Any, naive.Array]:
    """An epilogue and the outputs it must make of the sums."""
    info = np.iinfo(dtype)
    zero = int(rng.integers(info.min, info.max + 1))
    if form == "i32":
        return Accumulate(), sums
    if form == "f32":
        bias = rng.normal(size=scale.size).astype(np.float32)
        value = sums.astype(np.float32) * scale + bias
        return FloatOutput(scale, bias, low=0.0), np.maximum(value, np.float32(0))
    if form == "q8":
        return Requantize(scale, zero, dtype), naive.requantize(sums, scale, zero, dtype)
    if form == "clip":
        high = min(info.max, zero + 40)
        return Requantize(scale, zero, dtype, zero, high), naive.requantize(sums, scale, zero, dtype, zero, high)
    if form == "table":
        table = rng.integers(0, 256, 256).astype(np.uint8)
        plain = naive.requantize(sums, scale, zero, dtype)
        return Requantize(scale, zero, dtype, table=table), table[plain.view(np.uint8)].view(dtype)
    other = rng.integers(-128, 128, sums.shape).astype(np.int8)
    RESIDUALS[:] = [other]
    inner_zero, r_zero = int(rng.integers(0, 256)), int(rng.integers(-128, 128))
    a, b, c = (np.float32(v) for v in rng.uniform(0.01, 0.1, 3))
    inner = naive.requantize(sums, scale, inner_zero, np.uint8).astype(np.int32)
    added = (inner - inner_zero).astype(np.float32) * a + (other.astype(np.int32) - r_zero).astype(np.float32) * b
    residual = AddedTensor(float(a), inner_zero, np.uint8, float(b), r_zero, np.int8, float(c))
    return Requantize(scale, zero, dtype, residual=residual), naive.quantize(added, c, zero, dtype)


@every_level
@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(0, 70), depth=st.integers(1, 200), channels=st.integers(1, 130), x_dtype=dtypes, x_style=styles,
    w_style=styles, transposed=st.booleans(), workers=st.integers(1, 3), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_matmul(
    level: Level, rows: int, depth: int, channels: int, x_dtype: Any, x_style: str, w_style: str, transposed: bool,
    workers: int, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x = draw_integers(rng, x_dtype, (rows, depth), x_style)
    w = draw_integers(rng, np.int8, (depth, channels), w_style)
    info = np.iinfo(x_dtype)
    zero = int(rng.integers(info.min, info.max + 1))
    y = naive.empty((rows, channels), np.int32)
    stored = np.ascontiguousarray(w.T).T if transposed else w
    routine = prepare_matmul(rows, stored, Activations(x_dtype, zero), Accumulate(), level=level)
    run_routine(routine, {"x": naive.placed(x), "y": y}, workers=workers)
    np.testing.assert_array_equal(y, (x.astype(np.int32) - zero) @ w.astype(np.int32))


@every_level
@pytest.mark.parametrize("depth", [2304, 4608])
def test_the_largest_sums_are_exact(level: Level, depth: int) -> None:
    x = naive.placed(np.full((13, depth), 255, np.uint8))
    for value in (-128, 127):
        w = np.full((depth, 48), value, np.int8)
        y = naive.empty((13, 48), np.int32)
        run_routine(prepare_matmul(13, w, Activations(np.uint8), Accumulate(), level=level), {"x": x, "y": y})
        assert np.all(y == 255 * value * depth)


def test_mismatched_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        prepare_conv((1, 8, 8, 6), np.zeros((8, 4, 3, 3), np.int8), Activations(np.uint8), Accumulate())
