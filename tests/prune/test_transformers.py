"""Attention, rotations, indexing and running sums: what goes together, and that removal is exact."""

from __future__ import annotations

import re

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.analysis.channels import find_channels
from tests.prune.oracle import assert_exact
from tests.prune.test_kinds import floats, lift

HEADS = """m (float[N,5,16] x) => (float[N,5,7] y)
    { q = MatMul(x, a)
      k = MatMul(x, b)
      v = MatMul(x, c)
      %s
      y = MatMul(n, d) }"""
SPLIT = """{0}s = Reshape({0}, {1})
      {0}h = Transpose <perm = [0, 2, 1, 3]> ({0}s)"""
MERGED = """o = Transpose <perm = [0, 2, 1, 3]> (h)
      n = Reshape(o, merged)"""


def sizes(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def wide(query: int = 24, key: int = 24, value: int = 24) -> dict[str, np.ndarray]:
    out = value * query // key
    return {
        name: floats(*shape) * 20
        for name, shape in {"a": (16, query), "b": (16, key), "c": (16, value), "d": (out, 7)}.items()
    }


CASES = {
    "three axes": (
        "n = Attention <q_num_heads = 6, kv_num_heads = 6> (q, k, v)", wide(), 6
    ),
    "three axes, heads of keys for several": (
        "n = Attention <q_num_heads = 6, kv_num_heads = 3> (q, k, v)", wide(key=12, value=12), 3
    ),
    "one head of keys for all": (
        "n = Attention <q_num_heads = 6, kv_num_heads = 1> (q, k, v)", wide(key=4, value=4), 6
    ),
    "four axes": (
        "\n".join([
            SPLIT.format("q", "heads"), SPLIT.format("k", "few"), SPLIT.format("v", "few"),
            "h = Attention(qh, kh, vh)", MERGED,
        ]),
        {**wide(key=12, value=12), "heads": sizes(0, 0, 6, 4), "few": sizes(0, 0, 3, 4), "merged": sizes(0, 0, 24)}, 3
    ),
    "rotated": (
        """qr = RotaryEmbedding <num_heads = 6> (q, cos, sin, at)
      kr = RotaryEmbedding <num_heads = 3> (k, cos, sin, at)
      n = Attention <q_num_heads = 6, kv_num_heads = 3> (qr, kr, v)""",
        {
            **wide(key=12, value=12), "cos": floats(9, 2) * 50, "sin": floats(9, 2) * 50,
            "at": np.arange(5, dtype=np.int64)[None],
        }, 3
    ),
    "rotated in four axes": (
        "\n".join([
            SPLIT.format("q", "heads"), SPLIT.format("k", "heads"), SPLIT.format("v", "heads"),
            "qr = RotaryEmbedding(qh, cos, sin)", "h = Attention(qr, kh, vh)", MERGED,
        ]),
        {
            **wide(), "heads": sizes(0, 0, 6, 4), "merged": sizes(0, 0, 24), "cos": floats(1, 5, 2) * 50,
            "sin": floats(1, 5, 2) * 50,
        }, 6
    ),
    "a cache of constants": (
        "\n".join([
            SPLIT.format("q", "heads"), SPLIT.format("k", "heads"), SPLIT.format("v", "heads"),
            "ka = Concat <axis = 2> (past, kh)", "va = Concat <axis = 2> (past, vh)",
            "h = Attention(qh, ka, va)", MERGED,
        ]),
        {**wide(), "heads": sizes(0, 0, 6, 4), "merged": sizes(0, 0, 24), "past": floats(1, 6, 3, 4)}, 6
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_heads_of_attention(name):
    body, weights, heads = CASES[name]
    text = HEADS % body if name != "a cache of constants" else (HEADS % body).replace("float[N,5", "float[1,5")
    model = lift(text, 23, **weights)
    assert heads in [group.size for group in find_channels(model).groups]
    assert assert_exact(onnx_io.to_proto(model), 0, 0.5) >= heads // 2


def test_a_fed_cache_holds_the_heads_of_keys_not_their_readers():
    """Two heads of queries read each of the three that the cache has: one of each two may go."""
    text = """m (float[N,5,16] x, float[N,3,T,4] past) => (float[N,5,7] y)
        { q = MatMul(x, a)
          s = Reshape(q, heads)
          qh = Transpose <perm = [0, 2, 1, 3]> (s)
          five = Unsqueeze(past, two)
          wide = Expand(five, repeats)
          k = Reshape(wide, six)
          kt = Transpose <perm = [0, 1, 3, 2]> (k)
          l = MatMul(qh, kt)
          p = Softmax(l)
          h = MatMul(p, k)
          o = Transpose <perm = [0, 2, 1, 3]> (h)
          n = Reshape(o, merged)
          y = MatMul(n, d) }"""
    weights = {
        "a": floats(16, 24) * 20, "d": floats(24, 7), "heads": sizes(0, 0, 6, 4), "two": sizes(2),
        "repeats": sizes(1, 1, 2, 1, 1), "six": sizes(0, 6, -1, 4), "merged": sizes(0, 0, 24),
    }  # fmt: skip
    model = lift(text, 17, **weights)
    (group,) = find_channels(model).groups
    assert group.size == 2
    assert assert_exact(onnx_io.to_proto(model), 0, 0.5) == 1


BEHIND = """m (float[N,6] x, int64[M] at) => (float[M,5] z)
    {{ h = MatMul(x, a)
      {}
      z = MatMul(n, c) }}"""
ROWS = "rows = Unsqueeze(at, last)"
PICKED = f"{ROWS}\n p = GatherND(h, rows)"
ZEROS = f"{PICKED}\n e = Shape(p)\n zeros = ConstantOfShape(e)"
BODIES = {
    "n = GatherND(h, rows)": ROWS,
    "n = ScatterND(zeros, rows, p)": ZEROS,
    "n = GatherElements(h, wide)": f"{ROWS}\n wide = Expand(rows, width)",
    'n = ScatterElements <axis = 0, reduction = "add"> (zeros, wide, p)': f"{ZEROS}\n wide = Expand(rows, e)",
    "n = CumSum(p, zero)": PICKED,
    "n = Slice(p, start, e)": f"{PICKED}\n e = Shape(p)",
}


@pytest.mark.parametrize("last", BODIES)
def test_channels_behind_what_picks_rows(last):
    weights = {
        "a": floats(6, 8) * 20, "c": floats(8, 5), "last": sizes(-1), "width": sizes(1, 8),
        "zero": np.int64(0), "start": sizes(0, 0),
    }  # fmt: skip
    text = BEHIND.format(f"{BODIES[last]}\n{last}")
    used = {name: array for name, array in weights.items() if re.search(rf"\b{name}\b", text)}
    model = lift(text, 18, **used)
    (group,) = find_channels(model).groups
    assert group.size == 8
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    feeds = [{"x": x, "at": np.array([2, 0, 1], np.int64)}]
    assert assert_exact(onnx_io.to_proto(model), 0, 0.5, feeds) == 4


def test_a_resize_to_sizes_that_are_read_keeps_channels():
    text = """m (float[N,3,4,4] x, int64[2] size) => (float[N,5,H,W] z)
        { h = Conv(x, a)
          s = Shape(h)
          front = Slice(s, zero, two)
          sizes = Concat <axis = 0> (front, size)
          n = Resize <mode = "linear"> (h, , , sizes)
          z = Conv(n, c) }"""
    weights = {"a": floats(8, 3, 1, 1), "c": floats(5, 8, 1, 1), "zero": sizes(0), "two": sizes(2)}
    model = lift(text, 17, **weights)
    (group,) = find_channels(model).groups
    assert group.size == 8
    feeds = [{"x": np.ones((2, 3, 4, 4), np.float32), "size": sizes(7, 9)}]
    assert assert_exact(onnx_io.to_proto(model), 0, 0.5, feeds) == 4
