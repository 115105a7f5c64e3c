"""Products with weights in blocks: bit for bit the naive sums, and at least as near to float as onnxruntime's."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.kernels import run_routine
from graphopt.kernels.core.levels import Level
from graphopt.kernels.products.blocked_matmul import pack_blocked, prepare_blocked_matmul
from tests.kernels import naive
from tests.kernels.products.test_matmul_conv import every_level


def quantized(x: naive.Array, block: int) -> tuple[naive.Array, naive.Array]:
    """Codes [rows, blocks, block] and scales [rows, blocks], a block of zeros with a scale of 0."""
    rows, depth = x.shape
    padded = np.zeros((rows, -(-depth // block) * block), np.float32)
    padded[:, :depth] = x
    parts = padded.reshape(rows, -1, block)
    greatest = np.abs(parts).max(axis=2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = np.float32(127) / greatest
        codes = np.rint(parts * inverse[..., None])
    lost = ~((inverse > 0) & (inverse < 3e38))
    codes[lost] = 0
    scales = np.where(lost, np.where(greatest < 1, np.float32(0), greatest), greatest / np.float32(127))
    return codes.astype(np.int64), scales.astype(np.float32)


def product(
    x: naive.Array, codes: naive.Array, scales: naive.Array, zeros: naive.Array, bias: naive.Array
) -> naive.Array:
    """Blocks in their order, each rounded to float32 after every operation."""
    own, x_scales = quantized(x, codes.shape[2])
    y = np.zeros((len(x), len(codes)), np.float32)
    for b in range(codes.shape[1]):
        exact = own[:, b] @ (codes[:, b].astype(np.int64) - zeros[:, b, None].astype(np.int64)).T
        y += exact.astype(np.float32) * (x_scales[:, b, None] * scales[None, :, b])
    return np.asarray(y + bias, np.float32)


@every_level
@settings(max_examples=25, deadline=None)
@given(
    bits=st.sampled_from([4, 8]), block=st.sampled_from([16, 32, 128]), depth=st.integers(1, 300),
    channels=st.sampled_from([1, 7, 16, 40]), rows=st.sampled_from([1, 2, 9, 17]), zeros=st.booleans(),
    biased=st.booleans(), style=st.sampled_from(["normal", "sparse", "highest", "lowest"]), workers=st.integers(1, 2),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_blocked_product(
    level: Level, bits: int, block: int, depth: int, channels: int, rows: int, zeros: bool, biased: bool, style: str,
    workers: int, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    blocks = -(-depth // block)
    x = rng.normal(size=(rows, depth)).astype(np.float32)
    if style == "sparse":
        x *= rng.random(x.shape) < 0.05
    codes = rng.integers(0, 1 << bits, (channels, blocks, block)).astype(np.uint8)
    if style in ("highest", "lowest"):
        x = np.where(x > 0, np.float32(7), np.float32(-7))
        x[::2] = np.abs(x[::2])  # pairs of one sign
        codes[:] = (1 << bits) - 1 if style == "highest" else 0
    scales = rng.uniform(0.001, 0.1, (channels, blocks)).astype(np.float32)
    points = rng.integers(0, 1 << bits, (channels, blocks)).astype(np.uint8) if zeros else None
    bias = rng.normal(size=channels).astype(np.float32)
    weights = pack_blocked(codes, scales, points, bits=bits, depth=depth, level=level)
    y = naive.empty((rows, channels), np.float32)
    source = naive.empty(x.shape, np.float32)
    source[:] = x
    run_routine(prepare_blocked_matmul(rows, weights, bias if biased else None), {"x": source, "y": y}, workers=workers)
    middle = np.full((channels, blocks), 1 << (bits - 1), np.uint8) if points is None else points
    expected = product(x, codes, scales, middle, bias if biased else np.zeros_like(bias))
    np.testing.assert_array_equal(y, expected)


def test_rows_are_skipped() -> None:
    rng = np.random.default_rng(0)
    x = naive.empty((5, 64), np.float32)
    x[:] = rng.normal(size=x.shape)
    weights = pack_blocked(rng.integers(0, 16, (16, 2, 32)).astype(np.uint8), np.ones((16, 2)), None, bits=4, depth=64)
    whole, last = naive.empty((5, 16), np.float32), naive.empty((1, 16), np.float32)
    run_routine(prepare_blocked_matmul(5, weights), {"x": x, "y": whole})
    run_routine(prepare_blocked_matmul(1, weights, skipped=4), {"x": x, "y": last})
    np.testing.assert_array_equal(last, whole[4:])


def test_numbers_that_are_none_spoil_their_rows_only() -> None:
    rng = np.random.default_rng(0)
    x = naive.empty((4, 64), np.float32)
    x[:] = rng.normal(size=x.shape)
    x[0, 3], x[1, 40], x[2, :] = np.nan, np.inf, 1e-45
    codes = rng.integers(0, 16, (16, 2, 32)).astype(np.uint8)
    weights = pack_blocked(codes, np.ones((16, 2), np.float32), None, bits=4, depth=64)
    y = naive.empty((4, 16), np.float32)
    run_routine(prepare_blocked_matmul(4, weights), {"x": x, "y": y})
    assert np.isnan(y[:2]).all()
    assert (y[2] == 0).all()
    assert np.isfinite(y[3]).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_as_accurate_as_onnxruntime(bits: int) -> None:
    """The error against the product of floats is not above that of MatMulNBits with accuracy_level 4."""
    rng = np.random.default_rng(1)
    rows, depth, channels, block = 32, 512, 96, 32
    x = naive.empty((rows, depth), np.float32)
    x[:] = rng.standard_t(4, x.shape)
    codes = rng.integers(0, 1 << bits, (channels, depth // block, block)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.02, codes.shape[:2]).astype(np.float32)
    y = naive.empty((rows, channels), np.float32)
    run_routine(
        prepare_blocked_matmul(rows, pack_blocked(codes, scales, None, bits=bits, depth=depth)), {"x": x, "y": y}
    )
    stored = codes if bits == 8 else codes[..., 0::2] | (codes[..., 1::2] << 4)
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=depth, N=channels, bits=bits, block_size=block,
        accuracy_level=4,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, channels])],
        [numpy_helper.from_array(stored, "w"), numpy_helper.from_array(scales, "s")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    (theirs,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    floats = (codes.astype(np.float64) - (1 << (bits - 1))) * scales[..., None].astype(np.float64)
    exact = x.astype(np.float64) @ floats.reshape(channels, depth).T
    ours, other = (np.square(result - exact).mean() for result in (y, theirs))
    assert ours <= 1.02 * other  # both round to 8 bits in these blocks: the same error up to ties


def test_other_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks of 24"):
        pack_blocked(np.zeros((4, 2, 24), np.uint8), np.ones((4, 2)), None, bits=4, depth=48)
    with pytest.raises(ValueError, match="one a block"):
        pack_blocked(np.zeros((4, 2, 32), np.uint8), np.ones((4, 1)), None, bits=4, depth=64)
