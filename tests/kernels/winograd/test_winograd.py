"""Winograd convolution equals the oracle bit for bit on every level, and refuses weights that could break it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import Declined
from graphopt.kernels import run_routine
from graphopt.kernels.core.levels import Level, available_levels
from graphopt.kernels.products.epilogue import Accumulate, AddedTensor, Epilogue, FloatOutput, Requantize
from graphopt.kernels.products.matmul_conv import Activations, prepare_conv
from graphopt.kernels.winograd.algebra import F2, F4, Variant
from graphopt.kernels.winograd.choice import choose
from graphopt.kernels.winograd.convolution import prepare_winograd
from graphopt.kernels.winograd.weights import pack_plain, weight_sums
from tests.kernels import naive

LEVELS = available_levels()
every_level = pytest.mark.parametrize("level", LEVELS, ids=[level.name for level in LEVELS])
both_variants = pytest.mark.parametrize("variant", [F4, F2], ids=["F4", "F2"])


def draw(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], style: str) -> naive.Array:
    info = np.iinfo(dtype)
    if style == "extreme":
        return rng.choice(np.array([info.min, info.max], dtype), shape)
    if style in ("lowest", "highest"):
        return np.full(shape, info.min if style == "lowest" else info.max, dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


@st.composite
def cases(draw_: Any) -> dict[str, Any]:
    styles = st.sampled_from(["extreme", "lowest", "highest", "uniform", "uniform"])
    case = {
        "shape": (draw_(st.integers(1, 2)), draw_(st.integers(1, 13)), draw_(st.integers(1, 13))),
        "channels": draw_(st.one_of(st.integers(1, 40), st.integers(1, 130))),
        "outputs": draw_(st.one_of(st.integers(1, 40), st.integers(1, 130))),
        "pads": draw_(st.one_of(st.just((1, 1, 1, 1)), st.tuples(*[st.integers(0, 3)] * 4))),
        "x_dtype": draw_(st.sampled_from([np.uint8, np.int8])),
        "y_dtype": draw_(st.sampled_from([np.uint8, np.int8])),
        "x_style": draw_(styles),
        "w_style": draw_(styles),
        "biased": draw_(st.booleans()),
        "fly": draw_(st.booleans()),
        "form": draw_(st.sampled_from(["i32", "q8", "clip", "table", "residual", "f32"])),
        "workers": draw_(st.integers(1, 3)),
        "seed": draw_(st.integers(0, 2**31)),
    }
    return case


def epilogue(rng: np.random.Generator, form: str, dtype: Any, sums: naive.Array) -> Epilogue:
    count, info = sums.shape[-1], np.iinfo(dtype)
    if form == "i32":
        return Accumulate()
    largest = max(1.0, float(np.abs(sums.astype(np.int64)).max(initial=0)))
    scale = (rng.uniform(0.5, 2, count) * 90 / largest).astype(np.float32)
    if form == "f32":
        return FloatOutput(scale, rng.normal(0, 1, count).astype(np.float32), -20.0, 50.0)
    zero = int(rng.integers(info.min, info.max + 1))
    if form == "q8":
        return Requantize(scale, zero, dtype)
    if form == "clip":
        return Requantize(scale, zero, dtype, zero, min(info.max, zero + 60))
    if form == "table":
        return Requantize(scale, zero, dtype, table=rng.integers(0, 256, 256).astype(np.uint8))
    return Requantize(scale, zero, dtype, residual=AddedTensor(0.11, 3, np.int8, 0.07, 5, np.int8, 0.13))


@every_level
@both_variants
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_equals_the_oracle_and_the_direct_kernel(level: Level, variant: Variant, case: dict[str, Any]) -> None:
    rng = np.random.default_rng(case["seed"])
    batch, height, width = case["shape"]
    top, left, bottom, right = pads = case["pads"]
    shape = (batch, max(height, 3 - top - bottom), max(width, 3 - left - right), case["channels"])
    x = draw(rng, case["x_dtype"], shape, case["x_style"])
    w = draw(rng, np.int8, (case["outputs"], case["channels"], 3, 3), case["w_style"])
    info = np.iinfo(case["x_dtype"])
    zero = int(rng.integers(info.min, info.max + 1))
    bias = rng.integers(-(2**20), 2**20, len(w)).astype(np.int32) if case["biased"] else None
    sums = naive.conv_sums(x, w, zero, np.zeros(len(w), np.int64), bias, (1, 1), pads, (1, 1), 1)
    output = epilogue(rng, case["form"], case["y_dtype"], sums)
    activations = Activations(case["x_dtype"], zero)
    options = {"bias": bias, "pads": pads, "level": level}
    try:
        routine = prepare_winograd(shape, w, activations, output, variant=variant, on_the_fly=case["fly"], **options)
    except Declined:
        assert variant is F4 and w.shape[1] > 80, "refused although the bound holds"
        return
    dtype = {Accumulate: np.int32, FloatOutput: np.float32}.get(type(output), case["y_dtype"])
    buffers = {"x": naive.placed(x), "y": naive.empty(sums.shape, dtype)}
    if case["form"] == "residual":
        buffers["residual"] = naive.placed(draw(rng, np.int8, sums.shape, "uniform"))
    run_routine(routine, buffers, workers=case["workers"])
    if case["form"] == "i32":
        np.testing.assert_array_equal(buffers["y"], sums)
    if case["form"] in ("q8", "clip"):
        assert isinstance(output, Requantize)
        want = np.rint(sums.astype(np.float32) * output.scale).astype(np.float64) + output.zero_point
        np.testing.assert_array_equal(buffers["y"], np.clip(want, *output.limits).astype(dtype))
    direct = dict(buffers, y=naive.empty(sums.shape, dtype))
    run_routine(prepare_conv(shape, w, activations, output, **options), direct)
    np.testing.assert_array_equal(buffers["y"].view(np.uint8), direct["y"].view(np.uint8))


@every_level
def test_the_bound_decides_at_its_very_edge(level: Level) -> None:
    """|sum| may reach 2^25 − 1: 255 · 128 · 9 · 114 + bias; one more is refused for F4 and taken by F2."""
    channels = 114
    x = np.full((1, 6, 6, channels), 255, np.uint8)
    w = np.full((2, channels, 3, 3), -128, np.int8)
    reach = 255 * 128 * 9 * channels
    room = 2**25 - 1 - reach
    bias = np.array([-room, 0], np.int32)
    activations = Activations(np.uint8, 0)
    for fly in (False, True):
        options: dict[str, Any] = {"pads": (0, 0, 0, 0), "on_the_fly": fly, "level": level}
        y = naive.empty((1, 4, 4, 2), np.int32)
        exact = prepare_winograd(x.shape, w, activations, Accumulate(), bias=bias, variant=F4, **options)
        run_routine(exact, {"x": naive.placed(x), "y": y})
        assert (y[..., 0] == 1 - 2**25).all() and (y[..., 1] == -reach).all()
        with pytest.raises(Declined, match="channel 0 can reach"):
            prepare_winograd(x.shape, w, activations, Accumulate(), bias=bias - 1, variant=F4, **options)
        second = prepare_winograd(x.shape, w, activations, Accumulate(), bias=bias - 1, **options)
        run_routine(second, {"x": naive.placed(x), "y": y})
        assert (y[..., 0] == -(2**25)).all()
        assert second.packed_bytes < exact.packed_bytes or fly


def test_memory_refusals_and_emptiness() -> None:
    w = np.ones((64, 64, 3, 3), np.int8)
    activations = Activations(np.uint8, 7)
    sizes = {
        (variant.m, fly): prepare_winograd(
            (1, 8, 8, 64), w, activations, Accumulate(), variant=variant, on_the_fly=fly
        ).packed_bytes
        for variant in (F4, F2)
        for fly in (False, True)
    }
    assert sizes[4, False] == 8 * w.size and sizes[2, False] * 9 == 32 * w.size
    assert sizes[4, True] == sizes[2, True] == w.size
    assert prepare_winograd((0, 8, 8, 64), w, activations, Accumulate()).steps == ()
    with pytest.raises(Declined, match="scale"):
        prepare_winograd((1, 8, 8, 64), w, activations, Requantize(np.float32(1e-44), 0, np.uint8))
    with pytest.raises(Declined, match="int16"):
        prepare_winograd((1, 4, 4, 1), w[:, :1] * np.int32(250), activations, Accumulate(), variant=F4)
    with pytest.raises(ValueError, match="weights must be"):
        prepare_winograd((1, 8, 8, 3), w, activations, Accumulate())


def test_the_choice_follows_the_measured_table() -> None:
    best = {level.name: level for level in LEVELS}
    for name in {"avx2", "avx512vnni"} & best.keys():
        level = best[name]
        for channels, size in ((32, 112), (64, 56), (128, 28), (256, 56), (256, 14)):
            assert choose((1, size, size, channels), channels, level=level) is F4, (name, channels, size)
        assert choose((1, 56, 56, 3), 64, level=level) is None
        assert choose((1, 56, 56, 64), 64, exact=(), level=level) is None
        assert choose((0, 56, 56, 64), 64, level=level) is None
    if "avx512vnni" in best:
        assert choose((1, 7, 7, 512), 512, level=best["avx512vnni"]) is None
    if "avx2" in best:
        assert choose((1, 56, 56, 64), 64, exact=(F2,), level=best["avx2"]) is F2


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (40, 6, 3, 3), (0, 4, 3, 3), (7, 5, 3, 3)])
def test_weight_sums(shape: tuple[int, ...], dtype: Any) -> None:
    """Also of channels of one sign, and of the least code, whose magnitude int8 does not hold."""
    weights = np.random.default_rng(3).integers(-128, 128, shape).astype(dtype)
    weights[:1], weights[1:2] = -128, np.abs(weights[1:2].astype(np.int32)).clip(0, 127)
    sums, flat = weight_sums(weights), weights.reshape(len(weights), 9 * shape[1]).astype(np.int64)
    np.testing.assert_array_equal(sums.positive, np.where(flat > 0, flat, 0).sum(1))
    np.testing.assert_array_equal(sums.negative, np.where(flat < 0, flat, 0).sum(1))
    assert sums.largest == np.abs(flat).max(initial=0)


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (40, 6, 3, 3), (32, 5, 3, 3)])
def test_plain_weights_in_panels(shape: tuple[int, ...]) -> None:
    """Of weights in other than C order, too."""
    count, channels = shape[:2]
    weights = np.random.default_rng(4).integers(-128, 128, shape).astype(np.int8)
    want = np.zeros((-(-count // 32) * 32, 8, 9), np.int8)
    want[:count, :channels] = weights.reshape(count, channels, 9)
    want = want.reshape(-1, 32, 4, 2, 9).transpose(0, 2, 4, 1, 3)
    for order in "CF":
        np.testing.assert_array_equal(pack_plain(np.asarray(weights, order=order), 32, 8), want)
