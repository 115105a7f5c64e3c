"""Codes stay codes: moves, limits and repeated quantization are done without floats, bit for bit; else all stays."""

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.passes import drop_requantization, move_codes
from tests.passes.harness import body, lift, ops, outputs, random_feeds, rewrite

HEAD = """g (float[N,4,6,6] f, float[N,4,6,6] g, int64[2] picked) => (float[a,b,c,d] y)
  <float s = {{0.05}}, float s2 = {{0.0625}}, {dtype} z = {{{zero}}}, {dtype} other = {{7}}, float zero = {{0.0}},
  float six = {{6.0}}, float odd = {{0.033}}, float three = {{3.0}}, int64[4] sizes = {{0, 2, 2, 36}},
  int64[1] i0 = {{0}}, int64[1] i1 = {{1}}, int64[1] i2 = {{2}}, int64[1] i9 = {{9}},
  int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}, int64[2] parts = {{1, 3}}, float[4] up = {{1.0, 1.0, 2.0, 2.0}},
  float[4] channels = {{0.1, 0.2, 0.3, 0.4}}, {dtype}[4] zeros = {{0, 0, 0, 0}}, float[3,4,1,1] k> {{
  x = QuantizeLinear(f, s, z)
  d = DequantizeLinear(x, s, z)
  {nodes}
}}"""
WRITE = "\n q = QuantizeLinear(m, s, z)\n y = DequantizeLinear(q, s2, z)"
TWO = "x2 = QuantizeLinear(g, s, z)\n d2 = DequantizeLinear(x2, s, z)\n "
MOVES = {
    "transpose": "m = Transpose<perm = [0, 2, 3, 1]>(d)",
    "transpose and reshape": "t = Transpose<perm = [0, 2, 3, 1]>(d)\n m = Reshape(t, sizes)",
    "slice": "m = Slice(d, i1, i9, i2)",
    "gather": "m = Gather<axis = 2>(d, picked)",
    "maximum of a window": "m = MaxPool<kernel_shape = [2, 2], pads = [1, 1, 0, 0]>(d)",
    "maximum over an axis": "m = ReduceMax<axes = [2]>(d)",
    "pad": "m = Pad(d, pads)",
    "pad with a number on the grid": "m = Pad(d, pads, three)",
    "nearest": 'm = Resize<mode = "nearest">(d, , up)',
    "concat": TWO + "m = Concat<axis = 1>(d, d2)",
    "concat with itself": "m = Concat<axis = 1>(d, d)",
}
STAYS = {
    "another scale":
        "t = Transpose<perm = [0, 2, 3, 1]>(d)\n q = QuantizeLinear(t, s2, z)\n y = DequantizeLinear(q, s, z)",
    "another zero point":
        "t = Transpose<perm = [0, 2, 3, 1]>(d)\n q = QuantizeLinear(t, s, other)\n y = DequantizeLinear(q, s, z)",
    "arithmetic on the way": "t = Mul(d, odd)\n m = Transpose<perm = [0, 2, 3, 1]>(t)" + WRITE,
    "linear": "m = Resize<mode = \"linear\">(d, , up)" + WRITE,
    "pad off the grid": "m = Pad(d, pads, odd)" + WRITE,
    "one that was never codes": "m = Concat<axis = 1>(d, g)" + WRITE,
    "floats too": "t = Transpose<perm = [0, 2, 3, 1]>(d)\n e = Exp(t)\n h = Exp(d)\n i = ReduceMax(h)\n "
        "q = QuantizeLinear(t, s, z)\n u = DequantizeLinear(q, s2, z)\n v = Add(u, e)\n y = Add(v, i)",
    "scales by channel": "p = QuantizeLinear<axis = 1>(f, channels, zeros)\n "
        "r = DequantizeLinear<axis = 1>(p, channels, zeros)\n m = Transpose<perm = [0, 2, 3, 1]>(r)\n "
        "q = QuantizeLinear<axis = 1>(m, channels, zeros)\n y = DequantizeLinear(q, s2, z)",
}  # fmt: skip


def model(nodes, dtype="uint8", zero=128, opset=17):
    return lift(HEAD.format(nodes=nodes, dtype=dtype, zero=zero), opset)


def assert_bits(before, after):
    a, b = onnx_io.to_proto(before), onnx_io.to_proto(after)
    for seed, size in ((0, 1), (1, 3)):
        feeds = random_feeds(a, seed, size)
        for name in ("f", "g"):
            feeds[name] = feeds[name] * np.float32(3)  # beyond what the codes reach
        for x, y in zip(outputs(a, feeds), outputs(b, feeds)):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("dtype", "zero"), [("uint8", 128), ("int8", 0), ("uint8", 3)])
@pytest.mark.parametrize("name", MOVES)
def test_moves_are_done_on_codes(name, dtype, zero):
    before = model(MOVES[name] + WRITE, dtype, zero)
    after, changes = rewrite(before, move_codes)
    assert changes == 1
    moved = [op for op in ops(before) if op not in ("QuantizeLinear", "DequantizeLinear")]
    writes = 2 if "d2" in MOVES[name] else 1
    assert sorted(ops(after)) == sorted([*["QuantizeLinear"] * writes, *moved, "DequantizeLinear"])
    assert_bits(before, after)


def test_the_text_of_a_move():
    after, _ = rewrite(model(MOVES["concat with itself"] + WRITE), move_codes)
    assert body(after).splitlines()[1:] == [
        "%q = Concat(%x, %x) {axis=1}",
        "%y = DequantizeLinear(%q, @s2=f32[](0.0625), @z=u8[](128))",
        "return %y",
    ]


def test_every_part_of_a_split_is_moved():
    nodes = (
        "m, n = Split<axis = 1>(d, parts)\n q = QuantizeLinear(m, s, z)\n u = DequantizeLinear(q, s2, z)\n "
        "r = QuantizeLinear(n, s, z)\n v = DequantizeLinear(r, s2, z)\n y = Concat<axis = 1>(v, u)"
    )
    before = model(nodes)
    after, _ = rewrite(before, move_codes)
    assert ops(after) == ["QuantizeLinear", "Split", "DequantizeLinear", "DequantizeLinear", "Concat"]
    assert_bits(before, after)


def test_what_else_reads_a_moved_value_gets_floats():
    nodes = (
        "m = MaxPool<kernel_shape = [2, 2]>(d)\n e = Exp(m)\n q = QuantizeLinear(m, s, z)\n "
        "v = DequantizeLinear(q, s2, z)\n y = Add(v, e)"
    )
    before = model(nodes)
    after, changes = rewrite(before, move_codes)
    assert changes == 1
    assert ops(after) == ["QuantizeLinear", "MaxPool", "DequantizeLinear", "Exp", "DequantizeLinear", "Add"]
    assert_bits(before, after)


@pytest.mark.parametrize("name", STAYS)
def test_other_chains_stay(name):
    before = model(STAYS[name])
    assert rewrite(before, move_codes)[1] == 0


def test_codes_have_no_maximum_before_opset_12():
    before = model(MOVES["maximum of a window"] + WRITE, opset=11)
    assert rewrite(before, move_codes)[1] == 0


CONV = "w = DequantizeLinear(kc, s2)\n m = Conv(d, w)\n "
LIMITED = {
    "relu, which saturation does": ("r = Relu(d)", 0, ["QuantizeLinear"]),
    "clip, which saturation does": ("r = Clip(d, zero, high)", 0, ["QuantizeLinear"]),
    "relu after conv": (CONV + "r = Relu(m)", 128, ["Conv", "QuantizeLinear", "Clip"]),
    "clip after conv": (CONV + "r = Clip(m, zero, six)", 128, ["Conv", "QuantizeLinear", "Clip"]),
    "relu6 after conv": (CONV + "r = Clip(m, zero, six)", 0, ["Conv", "QuantizeLinear", "Clip"]),
}
KEPT = {
    "relu of floats": ("e = Exp(d)\n r = Relu(e)", 128),
    "conv of floats": ("e = Exp(d)\n w = DequantizeLinear(kc, s2)\n m = Conv(e, w)\n r = Relu(m)", 128),
    "relu in use": ("r = Relu(d)\n e = Exp(r)\n i = ReduceMax(e)", 0),
}


def limited(nodes, zero):
    rest = "\n q = QuantizeLinear(r, s2, z)\n " + ("y = DequantizeLinear(q, s2, z)" if "i = " not in nodes else
        "u = DequantizeLinear(q, s2, z)\n y = Add(u, i)")  # fmt: skip
    text = HEAD.format(nodes=nodes + rest, dtype="uint8", zero=zero)
    made = lift(text.replace("float[3,4,1,1] k", "int8[3,4,1,1] kc, float high = {15.99}"),
                kc=np.arange(-6, 6).reshape(3, 4, 1, 1))  # fmt: skip
    return made


@pytest.mark.parametrize("name", LIMITED)
def test_limits_are_put_on_codes(name):
    nodes, zero, wanted = LIMITED[name]
    before = limited(nodes, zero)
    after, changes = rewrite(before, drop_requantization, target="onnxruntime")
    assert changes == 1
    start = 3 if "Conv" in nodes else 2
    assert ops(after)[start:-1] == wanted
    assert_bits(before, after)


@pytest.mark.parametrize("name", KEPT)
def test_other_limits_stay(name):
    nodes, zero = KEPT[name]
    assert rewrite(limited(nodes, zero), drop_requantization, target="onnxruntime")[1] == 0


def test_a_clip_on_codes_is_for_onnxruntime_only():
    nodes, zero, _ = LIMITED["relu after conv"]
    assert rewrite(limited(nodes, zero), drop_requantization)[1] == 0
    nodes, zero, _ = LIMITED["relu, which saturation does"]
    assert rewrite(limited(nodes, zero), drop_requantization)[1] == 1


def test_codes_of_microsoft_are_those_of_onnx():
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,4] f) => (float[a,b] y) <float s = {0.05}, uint8 z = {128}> {
      x = com.microsoft.QuantizeLinear(f, s, z)
      y = com.microsoft.DequantizeLinear(x, s, z)
    }"""
    before = lift(text)
    after, changes = rewrite(before, drop_requantization)
    assert (changes, ops(after)) == (2, ["QuantizeLinear", "DequantizeLinear"])
    feeds = {"f": np.linspace(-9, 9, 64, dtype=np.float32).reshape(16, 4)}
    for a, b in zip(outputs(onnx_io.to_proto(before), feeds), outputs(onnx_io.to_proto(after), feeds)):
        np.testing.assert_array_equal(a, b)
