"""Products of integers take in their scales, their bias and the quantization before them, and change no bit."""

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.passes.codes import read_weights
from graphopt.passes.fuse import fuse_for_onnxruntime
from tests.passes.harness import lift, ops, outputs, rewrite

HEAD = """g (float[M,6] x) => (float[a,b] y) <{codes}[6,5] w, float t = {{0.02}}, float[5] each, {codes} zero = {{0}},
  float[5] bias, float[1,5] row, float c = {{2.0}}> {{
  q, s, z = DynamicQuantizeLinear(x)
  {nodes}
}}"""
PRODUCT = "i = MatMulInteger(q, w, z)\n f = Cast<to = 1>(i)\n "
ZERO = PRODUCT.replace("z)", "z, zero)")
TO_FLOAT, WHOLE = "com.microsoft::MatMulIntegerToFloat", "com.microsoft::DynamicQuantizeMatMul"
ALONE = ["DynamicQuantizeLinear", TO_FLOAT]
FUSES = {
    "one scale": (PRODUCT + "u = Mul(s, t)\n y = Mul(f, u)", [WHOLE]),
    "scales by column": (PRODUCT + "u = Mul(each, s)\n y = Mul(u, f)", [WHOLE]),
    "zero point of weights": (ZERO + "u = Mul(s, t)\n y = Mul(f, u)", [WHOLE]),
    "bias": (ZERO + "u = Mul(s, t)\n m = Mul(f, u)\n y = Add(bias, m)", [WHOLE]),
    "constant scale": (PRODUCT + "m = Mul(f, t)\n y = Mul(m, s)", [*ALONE, "Mul"]),
    "bias that is a row": (PRODUCT + "u = Mul(s, t)\n m = Mul(f, u)\n y = Add(m, row)", [WHOLE, "Add"]),
    "codes in use": (PRODUCT + "u = Mul(s, t)\n m = Mul(f, u)\n n = Cast<to = 1>(q)\n k = ReduceMax(n)\n y = Mul(m, k)",
                     [*ALONE, "Cast", "ReduceMax", "Mul"]),
    "two products of the same codes":
        (PRODUCT + "u = Mul(s, t)\n m = Mul(f, u)\n j = MatMulInteger(q, w, z)\n "
         "g = Cast<to = 1>(j)\n v = Mul(s, each)\n "
         "n = Mul(g, v)\n y = Concat<axis = 1>(m, n)", [*ALONE, TO_FLOAT, "Concat"]),
}  # fmt: skip
STAYS = {
    "integers in use": PRODUCT + "u = Mul(s, t)\n m = Mul(f, u)\n k = ReduceMax(f)\n y = Mul(m, k)",
    "made double": "i = MatMulInteger(q, w, z)\n f = Cast<to = 11>(i)\n d = Cast<to = 11>(t)\n m = Mul(f, d)\n "
        "y = Cast<to = 1>(m)",
    "scales by row": PRODUCT + "u = Mul(s, x)\n k = ReduceMax<axes = [1]>(u)\n y = Mul(f, k)",
}  # fmt: skip


def model(nodes, codes="int8", target="onnxruntime"):
    rng = np.random.default_rng(0)
    weights = rng.integers(0 if codes == "uint8" else -99, 99, (6, 5))
    made = lift(HEAD.format(nodes=nodes, codes=codes), w=weights, each=rng.uniform(0.01, 0.02, 5))
    return made


def assert_bits(before, after):
    for rows in (1, 7):
        feeds = {"x": np.random.default_rng(rows).standard_normal((rows, 6)).astype(np.float32)}
        (a,), (b,) = (outputs(onnx_io.to_proto(m), feeds) for m in (before, after))
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("codes", ["int8", "uint8"])
@pytest.mark.parametrize("name", FUSES)
def test_scales_and_bias_move_into_integer_products(name, codes):
    nodes, wanted = FUSES[name]
    before = model(nodes, codes)
    after, _ = rewrite(before, fuse_for_onnxruntime, target="onnxruntime")
    assert ops(after) == wanted
    assert_bits(before, after)


@pytest.mark.parametrize("name", STAYS)
def test_other_integer_products_stay(name):
    before = model(STAYS[name])
    assert not any("::" in op for op in ops(rewrite(before, fuse_for_onnxruntime, target="onnxruntime")[0]))


def test_a_quantization_that_follows_does_not_hinder():
    nodes = PRODUCT + "u = Mul(s, t)\n m = Mul(f, u)\n q2, s2, z2 = DynamicQuantizeLinear(m)\n "
    before = model(nodes + "y = DequantizeLinear(q2, s2, z2)")
    after, _ = rewrite(before, fuse_for_onnxruntime, target="onnxruntime")
    assert ops(after) == [WHOLE, "DynamicQuantizeLinear", "DequantizeLinear"]
    assert_bits(before, after)


def test_portable_models_keep_to_the_standard():
    assert rewrite(model(FUSES["bias"][0]), fuse_for_onnxruntime)[1] == 0


STORED = """g (float[M,6] x) => (float[a,b] y) <int8[6,5] w, float t = {{0.02}}, float[5] each, float[6,1] rows,
  float[6,5] all, int32[6,5] wide> {{
  f = Cast<to = 1>({codes})
  v = Mul({factors})
  y = MatMul(x, v)
}}"""
READ = {"f, t": (None, 1), "each, f": (1, 5), "f, rows": (0, 6)}  # axis and number of scales


@pytest.mark.parametrize("factors", READ)
def test_weights_stored_as_codes_are_recognised_on_demand(factors):
    codes = np.random.default_rng(0).integers(-99, 99, (6, 5))
    before = lift(STORED.format(codes="w", factors=factors), w=codes)
    after, changes = rewrite(before, read_weights)
    read = next(iter(after.graph))
    assert (changes, ops(after)) == (1, ["DequantizeLinear", "MatMul"])
    assert (read.attrs.get("axis"), read.inputs[1].constant.size) == READ[factors]
    assert_bits(before, after)


@pytest.mark.parametrize(("codes", "factors"), [("w", "f, all"), ("wide", "f, t")])
def test_other_weights_stay(codes, factors):
    before = lift(STORED.format(codes=codes, factors=factors))
    assert rewrite(before, read_weights)[1] == 0
