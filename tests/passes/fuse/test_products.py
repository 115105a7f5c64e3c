"""Products that share an operand become one, and one operator with the attention that they feed."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from graphopt import onnx_io
from graphopt.passes import name_sizes
from graphopt.passes.fuse import fuse_attention, fuse_for_onnxruntime, merge_products
from tests.passes.harness import assert_same, lift, ops, outputs, rewrite

HEAD = """g (float[B,S,16] x) => (float[a,b,c] y) <float[16,16] w, float[16,16] u, float[16,8] v, float[16] bw,
  float[16] bu, float[8] bv, float[1] one, float[3,16] thin, float[16,16] v16, float[16] bv16,
  int64[4] four = {{0, 0, 2, 8}}, int64[3] three = {{0, 0, 16}}> {{ {nodes}
}}"""
PLAIN = "h = MatMul(x, w)\n i = MatMul(x, v)\n "
BIASED = "h0 = MatMul(x, w)\n h = Add(bw, h0)\n i0 = MatMul(x, v)\n i = Add(i0, bv)\n "
JOIN = "y = Concat<axis = -1>(h, i)"
MERGES = {
    "plain": (PLAIN + JOIN, ["MatMul", "Split", "Concat"]),
    "with biases": (BIASED + JOIN, ["MatMul", "Add", "Split", "Concat"]),
    "three": (PLAIN + "j = MatMul(x, u)\n y = Concat<axis = -1>(h, i, j)", ["MatMul", "Split", "Concat"]),
    "with and without biases": (BIASED + "j = MatMul(x, u)\n k = MatMul(x, v16)\n y = Concat<axis = -1>(h, i, j, k)",
                                ["MatMul", "Add", "Split", "MatMul", "Split", "Concat"]),
}  # fmt: skip
STAYS = {
    "of other operands": "e = Exp(x)\n h = MatMul(x, w)\n i = MatMul(e, v)\n " + JOIN,
    "with one weight": "h = MatMul(x, w)\n i = MatMul(x, w)\n " + JOIN,
    "with a weight that is computed": "e = Exp(w)\n h = MatMul(x, e)\n i = MatMul(x, v)\n " + JOIN,
    "quantized later": PLAIN + JOIN.replace("y =", "z =") + "\n q = QuantizeLinear(z, s)\n y = DequantizeLinear(q, s)",
}  # fmt: skip


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("name", MERGES)
def test_products_of_one_operand_become_one(name, opset):
    nodes, wanted = MERGES[name]
    before = lift(HEAD.format(nodes=nodes), opset)
    after, changes = rewrite(before, merge_products)
    assert changes == wanted.count("Split") and ops(after) == wanted
    assert_same(before, after, rtol=1e-5)


@pytest.mark.parametrize("name", STAYS)
def test_other_products_stay(name):
    before = lift(HEAD.format(nodes=STAYS[name]).replace("float[1] one", "float s = {0.1}"))
    assert rewrite(before, merge_products)[1] == 0


HEADS = """h0 = MatMul(x, w)
 h = Add(h0, bw)
 i0 = MatMul(x, u)
 i = Add(i0, bu)
 j0 = MatMul(x, v16)
 j = Add(j0, bv16)
 rq = Reshape(h, four)
 rk = Reshape(i, four)
 rv = Reshape(j, four)
 q = Transpose<perm = [0, 2, 1, 3]>(rq)
 k = Transpose<perm = [0, 2, 3, 1]>(rk)
 vs = Transpose<perm = [0, 2, 1, 3]>(rv)
 s = MatMul(q, k)
 p = Softmax(s)
 o = MatMul(p, vs)
 t = Transpose<perm = [0, 2, 1, 3]>(o)
 y = Reshape(t, three)"""


@pytest.mark.parametrize("biased", [True, False])
def test_projections_move_into_attention(biased):
    nodes = HEADS
    if not biased:
        for name in "hij":
            nodes = nodes.replace(f"{name}0 =", f"{name} =").replace(f"{name} = Add({name}0, b{_WEIGHTS[name]})\n ", "")
    before = lift(HEAD.format(nodes=nodes))
    passes = name_sizes, merge_products, fuse_attention, fuse_for_onnxruntime
    after, _ = rewrite(before, *passes, target="onnxruntime")
    assert ops(after) == ["com.microsoft::Attention"]
    assert_same(before, after, rtol=1e-4)


def test_keys_that_are_a_result_too_are_not_computed_twice():
    before = lift(HEAD.replace("(float[a,b,c] y)", "(float[a,b,c] y, float[d,e,f] i)").format(nodes=HEADS))
    passes = name_sizes, merge_products, fuse_attention, fuse_for_onnxruntime
    after, _ = rewrite(before, *passes, target="onnxruntime")
    assert "com.microsoft::MultiHeadAttention" in ops(after) and ops(after).count("MatMul") == 1
    assert_same(before, after, rtol=1e-4)


_WEIGHTS = {"h": "w", "i": "u", "j": "v16"}


def test_a_large_weight_stays_where_it_is_stored():
    wide = 1 << 21
    text = HEAD.format(nodes=PLAIN + "y = Add(h, i)").replace("float[16,16] w", f"float[16,{wide}] w")
    before = lift(text.replace("float[16,8] v", f"float[16,{wide}] v"), w=np.zeros((16, wide)), v=np.zeros((16, wide)))
    assert rewrite(before, merge_products)[1] == 0


def stored(kinds, bits=4, **attributes):
    """Products of one x f32[B,S,40] by random codes in blocks of 16; kinds: outputs, and if there are zero points."""
    rng, depth, blocks = np.random.default_rng(1), 40, 3
    nodes, constants = [], []
    for k, (size, has_zero) in enumerate(kinds):
        arrays = [
            rng.integers(0, 256, (size, blocks, 2 * bits), dtype=np.uint8), rng.random((size, blocks), np.float32),
            rng.integers(0, 256, (size, -(-blocks * bits // 8)), dtype=np.uint8),
        ][: 3 if has_zero else 2]  # fmt: skip
        names = [f"w{k}_{i}" for i in range(len(arrays))]
        constants += [numpy_helper.from_array(a, name) for a, name in zip(arrays, names)]
        sizes = {"K": depth, "N": size, "bits": bits, "block_size": 16, "accuracy_level": 4, **attributes}
        nodes.append(helper.make_node("MatMulNBits", ["x", *names], [f"p{k}"], domain="com.microsoft", **sizes))
    read = [f"p{k}" for k in range(len(kinds))]
    nodes.append(helper.make_node("Concat", read, ["y"], axis=-1))
    x, y = (helper.make_tensor_value_info(name, 1, ["B", "S", size]) for name, size in (("x", depth), ("y", "n")))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return onnx_io.load(helper.make_model(graph, opset_imports=opsets, ir_version=8))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [(False, False, False), (True, False, True)])
def test_three_stored_products_of_one_operand_become_one_bit_for_bit(zeros, bits):
    before = stored([*zip((24, 8, 16), zeros)], bits)
    after, changes = rewrite(before, merge_products, target="onnxruntime")
    assert changes == 1 and ops(after) == ["com.microsoft::MatMulNBits", "Split", "Concat"]
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 40)).astype(np.float32)}
    a, b = (outputs(onnx_io.to_proto(m), feeds)[0] for m in (before, after))
    assert np.array_equal(a, b)


def test_two_stored_products_and_portable_ones_stay():
    assert rewrite(stored([(24, False), (8, False)]), merge_products, target="onnxruntime")[1] == 0
    assert rewrite(stored([(24, False)] * 3), merge_products)[1] == 0
