"""Figures of models: multiply-accumulates with the equations written out, and what counts as activations."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import onnx_io
from graphopt.measure import figures

OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]


def net(node, inputs, output, weights=()):
    graph = helper.make_graph(
        [node], "net", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)], list(weights),
    )  # fmt: skip
    return onnx_io.load(helper.make_model(graph, opset_imports=OPSETS, ir_version=9))


@pytest.mark.parametrize(
    ("equation", "shapes", "output", "counted"),
    [
        ("bhqd,bhkd->bhqk", [(2, 3, 5, 7), (2, 3, 11, 7)], (2, 3, 5, 11), {"": 2 * 3 * 5 * 11 * 7}),
        ("...ij, ...jk -> ...ik", [("N", 4, 5), ("N", 5, 6)], ("N", 4, 6), {"N": 4 * 5 * 6}),
        ("a...b,b->a...", [(2, 3, 4, 5), (5,)], (2, 3, 4), {"": 2 * 3 * 4 * 5}),
        ("bi,ij,bj->b", [("N", 4), (4, 6), ("N", 6)], ("N",), {"N": 2 * 4 * 6}),  # two products a letter's value
        ("ij,jk->ik", [(1, 5), (5, 3)], (1, 3), {"": 15}),
        ("ij->ji", [(4, 5)], (5, 4), {}),  # moved
        ("bij->bj", [(2, 4, 5)], (2, 5), {}),  # summed
    ],
)
def test_einsum_multiplies_the_sizes_of_its_letters(equation, shapes, output, counted):
    names = [f"x{i}" for i in range(len(shapes))]
    model = net(helper.make_node("Einsum", names, ["y"], equation=equation), dict(zip(names, shapes)), output)
    assert figures(model).macs_by_size == counted


@pytest.mark.parametrize(
    ("op", "inputs", "heads"),
    [
        ("MultiHeadAttention", {"q": (2, 5, 3, 3, 8)}, {"num_heads": 3}),
        ("MultiHeadAttention", {"q": (2, 5, 24), "k": (2, 5, 3, 2, 8)}, {"num_heads": 3}),
        ("MultiHeadAttention", {"q": (2, 5, 24), "k": (2, 5, 24), "v": (2, 5, 24)}, {"num_heads": 3}),
        ("GroupQueryAttention", {"q": (2, 5, (3 + 2) * 8)}, {"num_heads": 3, "kv_num_heads": 1}),
    ],
)
def test_packed_attention_multiplies_as_unpacked(op, inputs, heads):
    """batch · heads · queries · keys · size for the scores, and again for their sums of values."""
    model = net(helper.make_node(op, [*inputs], ["y"], domain="com.microsoft", **heads), inputs, (2, 5, 24))
    assert figures(model).macs == 2 * (2 * 3 * 5 * 5 * 8)


def test_weights_that_are_dequantized_are_no_activations():
    """Nor what is moved of them; a captured value belongs to the graph that computes it."""
    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[1,64] x, bool c) => (float[1,64] y) {
        w = DequantizeLinear(codes, scale)  t = Transpose<perm=[1,0]>(w)  h = MatMul(x, t)
        y = If(c) <then_branch = a () => (float[1,64] p) { p = Relu(h) },
                   else_branch = b () => (float[1,64] q) { q = Neg(h) }> }"""
    proto = onnx.parser.parse_model(text)
    codes, scale = np.ones((64, 64), np.int8), np.float32(0.1)
    proto.graph.initializer.extend([numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(scale, "scale")])
    counted = figures(onnx_io.load(proto))
    assert counted.activation_bytes == 4 * 64 * 3 + 1  # h, y and p or q beside the condition: x is read no more
