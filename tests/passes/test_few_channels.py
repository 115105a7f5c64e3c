"""Integer convolutions over few channels get channels in fours, or a deeper input for their stride: bit for bit."""

import itertools

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.measure import ort_session
from graphopt.passes.codes.few_channels import ConvSize, Form, choose, widen_channels
from tests.passes.harness import body, lift, ops, outputs, rewrite

TEXT = """g (uint8[N,{channels},{size},{size}] x) => (uint8[a,b,c,d] y) <float s = {{0.05}}, uint8 z = {{{zero}}},
  float r = {{0.9}}, uint8 q = {{117}}, int8[{results},{channels},{kernel}] w, float[{results}] t, int32[{results}] n,
  float u = {{0.001}}> {{
  d = DequantizeLinear(x, s, z)
  k = DequantizeLinear<axis = 0>(w, t)
  b = DequantizeLinear(n, u)
  h = Conv<{attrs}>(d, k, b)
  y = QuantizeLinear(h, r, q)
}}"""


def model(channels=3, results=16, kernel=(3, 3), size=12, zero=128, attrs="pads = [1, 1, 1, 1]", edit=()):
    rng, shape = np.random.default_rng(0), (results, channels, *kernel)
    text = TEXT.format(channels=channels, results=results, kernel=",".join(map(str, kernel)), size=size, zero=zero,
                       attrs=attrs)  # fmt: skip
    for old, new in edit:
        text = text.replace(old, new)
    return lift(
        text,
        w=rng.integers(-127, 128, shape),
        t=rng.uniform(0.001, 0.02, results),
        n=rng.integers(-99, 99, results),
    )


def assert_same_codes(before, after):
    protos = [onnx_io.to_proto(m) for m in (before, after)]
    shape = protos[0].graph.input[0].type.tensor_type.shape.dim
    codes = np.random.default_rng(1).integers(0, 256, [d.dim_value or 2 for d in shape]).astype(np.uint8)
    a, b = (outputs(proto, {"x": codes})[0] for proto in protos)
    assert a.dtype == b.dtype and (a != b).mean() < 1e-3 and np.abs(a.astype(int) - b).max() <= 1  # floats add in turn
    a, b = (ort_session(proto.SerializeToString()).run(None, {"x": codes})[0] for proto in protos)
    np.testing.assert_array_equal(a, b)  # integers do not


KERNELS = ((1, 1), (3, 3), (5, 5), (7, 7), (2, 2), (4, 3))
CASES = [
    {"channels": c, "kernel": k, "size": size, "attrs": f"pads = {[pad] * 4}, strides = {[s] * 2}"}
    for c, k, (size, s), pad in itertools.product((1, 2, 3, 6), KERNELS, ((12, 1), (16, 2), (24, 4)), (0, 1))
    if pad < min(k)
]


@pytest.mark.parametrize("start", range(8))
def test_every_form_computes_the_same_codes(start):
    fired = 0
    for case in CASES[start::8]:
        before = model(**case)
        after, changes = rewrite(before, widen_channels)
        assert_same_codes(before, after)
        fired += changes
    assert fired >= len(CASES[start::8]) - 2  # nearly all gain


def test_text_of_padded_channels():
    after, changes = rewrite(model(), widen_channels)
    assert changes == 1
    assert body(after).splitlines() == [
        "%b = DequantizeLinear(@n, @u=f32[](0.001))",
        "%6 = Pad(%x, @4=i64[8](0, 0, 0, 0, 0, 1, 0, 0), @z=u8[](128))",
        "%8 = DequantizeLinear(%6, @s=f32[](0.050000001), @z=u8[](128))",
        "%11 = DequantizeLinear(@w, @t) {axis=0}",
        "%h = Conv(%8, %11, %b) {pads=[1, 1, 1, 1]}",
        "%y = QuantizeLinear(%h, @r=f32[](0.89999998), @q=u8[](117))",
        "return %y",
    ]


def test_a_stride_becomes_channels():
    before = model(results=64, kernel=(7, 7), size=24, attrs="pads = [3, 3, 3, 3], strides = [2, 2]")
    after, changes = rewrite(before, widen_channels)
    conv = next(node for node in after.graph if node.op == "Conv")
    assert changes == 1 and "SpaceToDepth" in ops(after) and "Pad" not in ops(after)
    assert conv.constant(1) is None and conv.attrs["strides"] == (1, 1) and conv.attrs["pads"] == (2, 2, 1, 1)
    assert_same_codes(before, after)


def test_the_zero_point_outside_the_image_stays():
    for zero in (0, 7, 255):
        before = model(zero=zero, attrs="pads = [1, 2, 0, 1]")
        after, changes = rewrite(before, widen_channels)
        assert changes == 1
        assert_same_codes(before, after)


STAYS = {
    "four channels": {"channels": 4},
    "results not in fours": {"results": 18},
    "few results": {"results": 8},
    "groups": {"channels": 1, "edit": [("uint8[N,1,", "uint8[N,2,"), ("Conv<", "Conv<group = 2, ")]},
    "automatic pads": {"attrs": 'auto_pad = "SAME_UPPER"'},
    "a float result": {"edit": [("y = Quantize", "e = Exp(h)\n y = Quantize"), ("(h, r", "(e, r")]},
    "signed codes": {"zero": 0, "edit": [("uint8", "int8")]},
    "a zero of the weights": {
        "edit": [("(w, t)", "(w, t, wz)"), ("float u", f"int8[16] wz = {{{', '.join('1' * 16)}}}, float u")]
    },
}


@pytest.mark.parametrize("name", STAYS)
def test_others_stay(name):
    assert rewrite(model(**STAYS[name]), widen_channels)[1] == 0


def test_the_cheapest_form_is_chosen():
    plain, four = Form(0, 1), Form(1, 1)
    assert choose(ConvSize(3, 64, 3, 3), 1, (1, 1), True) == four
    assert choose(ConvSize(3, 64, 7, 7), 2, (3, 3), True) == Form(0, 2)
    assert choose(ConvSize(3, 64, 7, 7), 2, (3, 3), False) == four  # an odd size
    assert choose(ConvSize(24, 64, 3, 3), 2, (1, 1), True) == plain
    assert choose(ConvSize(3, 64, 11, 11), 4, (2, 2), True) == plain
