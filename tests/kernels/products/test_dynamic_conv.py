"""Convolutions quantized while running, and the float pools between them, against the operators' definitions."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from graphopt import onnx_io
from graphopt.kernels import run_routine
from graphopt.kernels.core.levels import Level
from graphopt.kernels.elementwise.floats import prepare_clamp
from graphopt.kernels.pooling.floats import prepare_float_pool
from graphopt.kernels.products.dynamic_conv import prepare_dynamic_conv
from graphopt.kernels.tensors.windows import Image, Window
from graphopt.machine.sessions import open_session, session_options
from graphopt.runtime.lower import tables
from graphopt.runtime.lower.operations import FloatClamp
from graphopt.runtime.lower.vision import clip_bounds
from tests.kernels import naive
from tests.kernels.products.test_matmul_conv import every_level

pads = st.tuples(*[st.integers(0, 2)] * 4)


def quantized(x: naive.Array) -> tuple[naive.Array, np.float32, int]:
    """DynamicQuantizeLinear."""
    least, greatest = min(np.float32(x.min()), np.float32(0)), max(np.float32(x.max()), np.float32(0))
    scale = np.float32((greatest - least) / np.float32(255)) or np.float32(1)
    zero = int(np.clip(np.rint(-least / scale), 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), scale, zero


@every_level
@settings(max_examples=40, deadline=None)
@given(
    channels=st.sampled_from([1, 3, 8, 16, 33]), outputs=st.sampled_from([1, 8, 17, 40]),
    groups=st.sampled_from([1, 2, 20]),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 5), (2, 3)]), strides=st.sampled_from([(1, 1), (2, 2), (1, 2)]),
    pads=pads, batch=st.integers(1, 2), unsigned=st.booleans(), biased=st.booleans(), relu=st.booleans(),
    style=st.sampled_from(["normal", "positive", "zeros"]), workers=st.integers(1, 2), seed=st.integers(0, 999),
)  # fmt: skip
def test_dynamic_conv(
    level: Level, channels: int, outputs: int, groups: int, kernel: tuple[int, int], strides: tuple[int, int],
    pads: tuple[int, int, int, int], batch: int, unsigned: bool, biased: bool, relu: bool, style: str, workers: int,
    seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    if groups == 20:  # depthwise
        channels = outputs = 1
    image = Image(batch, 7, 9, channels * groups)
    x = rng.normal(size=image.shape).astype(np.float32)
    x = {"normal": x, "positive": np.abs(x) + 3, "zeros": np.zeros_like(x)}[style]
    low, high = (0, 256) if unsigned else (-128, 128)
    weights = rng.integers(low, high, (outputs * groups, channels, *kernel)).astype(np.uint8 if unsigned else np.int8)
    w_zero = int(rng.integers(100, 150)) if unsigned else 0
    scale = np.float32(0.013)
    bias = rng.normal(size=outputs * groups).astype(np.float32) if biased else None
    window = Window(kernel, strides, (1, 1), pads)
    limits = (0.0, np.inf) if relu else (-np.inf, np.inf)
    out = window.output(image)
    y = naive.empty((out.batch, out.height, out.width, len(weights)), np.float32)
    routine = prepare_dynamic_conv(
        image, window, weights, scale, bias=bias, weight_zero_point=w_zero, groups=groups, limits=limits, level=level
    )
    run_routine(routine, {"floats": naive.placed(x), "y": y}, workers=workers)
    codes, x_scale, zero = quantized(x)
    sums = naive.conv_sums(codes, weights, zero, w_zero, None, strides, pads, (1, 1), groups)
    want = sums.astype(np.float32) * (x_scale * scale) + (np.float32(0) if bias is None else bias)
    np.testing.assert_array_equal(y, np.maximum(want, 0) if relu else want)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([1, 3, 16, 40]), kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)), pads=pads, mean=st.booleans(), include=st.booleans(),
    ceil=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_float_pools(
    channels: int, kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int], mean: bool,
    include: bool, ceil: bool, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    image, window = Image(2, 8, 6, channels), Window(kernel, strides, (1, 1), pads, ceil)
    x = rng.normal(size=image.shape).astype(np.float32)
    try:
        routine = prepare_float_pool(image, window, mean=mean, count_include_pad=include)
    except ValueError:
        return
    out = window.output(image)
    y = naive.empty(out.shape, np.float32)
    run_routine(routine, {"x": naive.placed(x), "y": y}, workers=1 + seed % 2)
    for i in range(out.height):
        for j in range(out.width):
            np.testing.assert_allclose(y[:, i, j], pooled(x, window, i, j, mean, include), rtol=1e-6, atol=1e-6)


def pooled(x: naive.Array, window: Window, i: int, j: int, mean: bool, include: bool) -> Any:
    """One pixel of a pool."""
    begins = [p * s - pad for p, s, pad in zip((i, j), window.strides, window.pads)]
    ranges = [
        np.arange(begin, min(begin + k, size + end))
        for begin, k, size, end in zip(begins, window.kernel, x.shape[1:3], window.pads[2:])
    ]
    rows, columns = (r[(r >= 0) & (r < size)] for r, size in zip(ranges, x.shape[1:3]))
    taps = x[:, rows][:, :, columns].astype(np.float64)
    if not mean:
        return taps.max((1, 2))
    return taps.sum((1, 2)) / (len(ranges[0]) * len(ranges[1]) if include else len(rows) * len(columns))


def test_a_window_in_padding_alone_is_declined() -> None:
    with pytest.raises(ValueError, match="padding"):
        prepare_float_pool(Image(1, 3, 3, 4), Window((1, 1), (1, 1), (1, 1), (1, 0, 0, 0)), mean=True)


def test_clamp() -> None:
    x = np.random.default_rng(0).normal(0, 4, 5000).astype(np.float32)
    x[:3] = np.nan, np.inf, -np.inf
    y = naive.empty(x.shape, np.float32)
    run_routine(prepare_clamp(5000, 0.2, 0.5, 0.0, 1.0), {"x": naive.placed(x), "y": y}, workers=2)
    np.testing.assert_array_equal(y, np.clip(np.float32(0.2) * x + np.float32(0.5), 0, 1))


@pytest.mark.parametrize("operator", ["Relu (x)", "Clip (x, zero, six)"])
@pytest.mark.parametrize("size", [1, 17, 5000])
def test_clamps_keep_the_sign_of_zero_and_nan_as_onnxruntime(operator: str, size: int) -> None:
    model = parser.parse_model(f"""
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y) <float zero = {{0}}, float six = {{6}}> {{ y = {operator} }}""")
    x = np.resize(np.array([-0.0, np.nan, 0.0, -1, 9, -np.inf, np.inf], np.float32), size)
    (wanted,) = open_session(model.SerializeToString(), session_options()).run(None, {"x": x})
    y, usual = naive.empty(x.shape, np.float32), {field.name: field.default for field in fields(FloatClamp)}
    high = 6.0 if "six" in operator else np.inf
    run_routine(prepare_clamp(size, usual["slope"], usual["shift"], 0.0, high), {"x": naive.placed(x), "y": y})
    assert np.array_equal(y.view(np.int32) & (2**31 - 1), wanted.view(np.int32) & (2**31 - 1))
    assert np.array_equal(np.signbit(y[~np.isnan(y)]), np.signbit(wanted[~np.isnan(y)]))


@pytest.mark.parametrize("opset", [6, 13])
@pytest.mark.parametrize("high", [None, 6.0, np.inf])
@pytest.mark.parametrize("low", [None, -1.0, 0.0, -np.inf])
def test_clip_without_a_limit_ends_at_the_largest_number_as_onnxruntime(low: Any, high: Any, opset: int) -> None:
    given = {name: np.float32(value) for name, value in (("min", low), ("max", high)) if value is not None}
    names = [name if name in given else "" for name in ("min", "max")] if opset == 13 else []
    attributes = given if opset == 6 else {}
    node = helper.make_node("Clip", ["x", *names], ["y"], **{name: float(v) for name, v in attributes.items()})
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy")
    weights = [numpy_helper.from_array(value, name) for name, value in given.items() if name in names]
    graph = helper.make_graph([node], "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    values = np.resize(np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 3e38, -3e38, 9, -9, 0.5], np.float32), 1000)
    (wanted,) = open_session(model.SerializeToString(), session_options()).run(None, {"x": values})
    (lifted,) = onnx_io.load(model).graph
    bounds, found = clip_bounds(lifted), naive.empty(values.shape, np.float32)
    assert bounds is not None
    usual = {field.name: field.default for field in fields(FloatClamp)}
    routine = prepare_clamp(values.size, usual["slope"], usual["shift"], *bounds)
    run_routine(routine, {"x": naive.placed(values), "y": found})
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(found[numbers].view(np.int32), wanted[numbers].view(np.int32))
    own = [None if slot == "" else given[slot] for slot in names]
    by_table = tables._UNARY["Clip"](lifted, values, *own)
    np.testing.assert_array_equal(by_table, wanted)
