"""Attention over caches, their growth and rotary embeddings, against numpy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.kernels import Program, Routine, aligned_empty
from graphopt.kernels.attention.cached import prepare_append, prepare_attention, prepare_rotary
from graphopt.kernels.core.levels import Level
from tests.kernels import naive
from tests.kernels.products.test_matmul_conv import every_level


def run(routine: Routine, workers: int = 1, **given: Any) -> None:
    """Arrays are bound by their addresses, numbers as they are."""
    scratch = aligned_empty(routine.scratch * workers)
    bound = {name: int(v.ctypes.data) if isinstance(v, np.ndarray) else v for name, v in given.items()}
    Program([(step, {**bound, "scratch": scratch.ctypes.data}) for step in routine.steps], workers=workers).run()


@every_level
@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 2), count=st.sampled_from([1, 3]), heads=st.integers(1, 3), groups=st.sampled_from([1, 3, 6]),
    size=st.sampled_from([16, 64]), width=st.sampled_from([16, 32]), rows=st.sampled_from([0, 5, 255, 300, 700]),
    mask=st.sampled_from([None, (1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)]), room=st.integers(0, 9),
    workers=st.integers(1, 2), seed=st.integers(0, 999),
)  # fmt: skip
def test_attention(
    level: Level, batch: int, count: int, heads: int, groups: int, size: int, width: int, rows: int,
    mask: tuple[int, int, int] | None, room: int, workers: int, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    total = rows + count
    q = naive.placed(rng.normal(size=(batch, count, heads, groups, size)).astype(np.float32))
    keys, values = (
        naive.placed(rng.normal(size=(batch, heads, total + room, n)).astype(np.float32)) for n in (size, width)
    )
    scores = np.einsum("bchgd,bhtd->bhgct", q.astype(np.float64), keys[:, :, :total]) * 0.3
    given: dict[str, Any] = {}
    sizes = None
    if mask is not None:
        sizes = tuple(1 if one else n for one, n in zip(mask, (batch, heads * groups, count)))
        added = rng.normal(size=(*sizes, total)).astype(np.float32)
        added[..., : total // 2] = np.where(rng.random(added[..., : total // 2].shape) < 0.5, -np.inf, 0)
        given["mask"] = naive.placed(added)
        added = np.broadcast_to(added, (batch, heads * groups, count, total))
        scores = scores + added.reshape(batch, heads, groups, count, total)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum("bhgct,bhtd->bchgd", weights, values[:, :, :total])
    y = naive.empty(expected.shape, np.float32)
    routine = prepare_attention(batch, count, heads, groups, size, width, 0.3, sizes, level=level)
    strides = {"key_stride": 4 * (total + room) * size, "value_stride": 4 * (total + room) * width}
    run(routine, workers, q=q, keys=keys, values=values, y=y, rows=rows, **strides, **given)
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("masked", [-np.inf, np.finfo(np.float32).min])
@pytest.mark.parametrize("seen", [0, 1])
def test_rows_of_few_keys(masked: float, seen: int) -> None:
    """Whole chunks may be masked; a row without any key gives zeros."""
    rng = np.random.default_rng(0)
    q, cache = (naive.placed(rng.normal(size=(n, 16)).astype(np.float32)) for n in (1, 700))
    mask = naive.placed(np.full((1, 700), masked, np.float32))
    mask[0, 600 : 600 + seen] = 0
    y = naive.empty((1, 16), np.float32)
    routine = prepare_attention(1, 1, 1, 1, 16, 16, 1.0, (1, 1, 1))
    run(routine, q=q, keys=cache, values=cache, mask=mask, y=y, rows=699, key_stride=0, value_stride=0)
    np.testing.assert_array_equal(y[0], cache[600] if seen else np.zeros(16))


def test_heads_of_half_a_vector_are_refused() -> None:
    with pytest.raises(ValueError, match="no whole vectors"):
        prepare_attention(1, 1, 1, 1, 18, 18, 1.0)


@pytest.mark.parametrize("rows", [0, 7])
@pytest.mark.parametrize("in_place", [False, True])
def test_append(rows: int, in_place: bool) -> None:
    rng = np.random.default_rng(0)
    batch, count, heads, size, room = 2, 3, 2, 20, 16
    past = rng.normal(size=(batch, heads, rows, size)).astype(np.float32)
    new = naive.placed(rng.normal(size=(batch, count, heads, size)).astype(np.float32))
    y = naive.empty((batch, heads, room, size), np.float32)
    if in_place:
        y[:, :, :rows] = past
    source, stride = (y, 4 * room * size) if in_place else (naive.placed(past), 4 * rows * size)
    run(
        prepare_append(batch, count, heads, size), 2,
        new=new, past=source, y=y, rows=rows, past_stride=stride, y_stride=4 * room * size,
    )  # fmt: skip
    np.testing.assert_array_equal(y[:, :, :rows], past)
    np.testing.assert_array_equal(y[:, :, rows : rows + count], new.transpose(0, 2, 1, 3))
    assert (y[:, :, rows + count :].view(np.uint8) == 0x5A).all()  # nothing behind is written


def coded_rows(rows: np.ndarray) -> np.ndarray:
    """Rows [..., size] as bytes [..., size + 4]: the nearest code to x / scale, and the scale max |x| / 127."""
    top = np.abs(rows).max(axis=-1, keepdims=True)
    top = np.where(top > 2.0**-100, top, 0).astype(np.float32)
    with np.errstate(divide="ignore"):
        inverse = np.where(top == 0, 0, np.float32(127) / top).astype(np.float32)
    codes = np.rint(rows * inverse).astype(np.int8).view(np.uint8)
    return np.concatenate((codes, (top / np.float32(127)).view(np.uint8)), axis=-1)


def decoded_rows(coded: np.ndarray) -> np.ndarray:
    """The float32 that rows of codes stand for."""
    scale = np.ascontiguousarray(coded[..., -4:]).view(np.float32)
    return np.ascontiguousarray(coded[..., :-4]).view(np.int8) * scale


@pytest.mark.parametrize("rows", [0, 7])
@pytest.mark.parametrize("in_place", [False, True])
def test_append_codes(rows: int, in_place: bool) -> None:
    """Bit for bit; a row of zeros, and one of the smallest numbers, have codes 0."""
    rng = np.random.default_rng(0)
    batch, count, heads, size, room = 2, 3, 2, 20, 16
    past = rng.integers(0, 256, (batch, heads, rows, size + 4)).astype(np.uint8)
    new = naive.placed(rng.normal(size=(batch, count, heads, size)).astype(np.float32))
    new[0, 0, 0], new[0, 0, 1] = 0, 1e-42
    y = naive.empty((batch, heads, room, size + 4), np.uint8)
    if in_place:
        y[:, :, :rows] = past
    source, stride = (y, room * (size + 4)) if in_place else (naive.placed(past), rows * (size + 4))
    run(
        prepare_append(batch, count, heads, size, coded=True), 2,
        new=new, past=source, y=y, rows=rows, past_stride=stride, y_stride=room * (size + 4),
    )  # fmt: skip
    np.testing.assert_array_equal(y[:, :, :rows], past)
    expected = coded_rows(new.transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(y[:, :, rows : rows + count], expected)
    assert np.abs(decoded_rows(expected) - new.transpose(0, 2, 1, 3)).max() < np.abs(new).max() / 250
    assert (y[:, :, rows + count :] == 0x5A).all()  # nothing behind is written


@every_level
@pytest.mark.parametrize("rows", [0, 300])
def test_attention_over_codes_is_that_over_what_they_stand_for(level: Level, rows: int) -> None:
    """Bit for bit."""
    rng = np.random.default_rng(rows)
    heads, groups, size, width, count, room = 2, 3, 32, 16, 3, 5
    total = rows + count
    q = naive.placed(rng.normal(size=(1, count, heads, groups, size)).astype(np.float32))
    codes = [coded_rows(rng.normal(size=(1, heads, total + room, n)).astype(np.float32)) for n in (size, width)]
    found = []
    for coded in (False, True):
        keys, values = (naive.placed(one if coded else decoded_rows(one)) for one in codes)
        y = naive.empty((1, count, heads, groups, width), np.float32)
        routine = prepare_attention(1, count, heads, groups, size, width, 0.3, coded=coded, level=level)
        strides = {"key_stride": keys.strides[1], "value_stride": values.strides[1]}
        run(routine, 2, q=q, keys=keys, values=values, y=y, rows=rows, **strides)
        found.append(y)
    assert np.abs(found[0]).max() > 0
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("turned", [16, 12])
def test_rotary(interleaved: bool, turned: int) -> None:
    rng = np.random.default_rng(0)
    rows, heads, size = 5, 3, 16
    x = naive.placed(rng.normal(size=(rows, heads, size)).astype(np.float32))
    angles = rng.normal(size=(rows, turned // 2))
    cos, sin = (naive.placed(function(angles).astype(np.float32)) for function in (np.cos, np.sin))
    y, expected = naive.empty(x.shape, np.float32), x.copy()
    half = turned // 2
    first, second = (slice(0, turned, 2), slice(1, turned, 2)) if interleaved else (slice(0, half), slice(half, turned))
    a, b, c, s = x[..., first], x[..., second], cos[:, None], sin[:, None]
    expected[..., first], expected[..., second] = a * c - b * s, a * s + b * c
    run(prepare_rotary(rows, heads, size, turned, interleaved), 2, x=x, y=y, cos=cos, sin=sin)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
