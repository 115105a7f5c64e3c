"""What onnxruntime makes of nodes: fused as its QDQ selectors do, and its products of integers with their scales."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from graphopt.ir import Model
from graphopt.onnx_io import load
from graphopt.runtime.place.assumed import assumed_shapes
from graphopt.runtime.place.stock import stock_work, work_by_node
from tests.runtime.test_predicted import two_towers


def silu(signed: bool) -> Model:
    """x · sigmoid(x) between pairs of QuantizeLinear and DequantizeLinear; that of x has two readers."""
    n = helper.make_node
    zero = np.array(0, np.int8 if signed else np.uint8)
    constants = {"s": np.float32(0.1), "z": zero}
    nodes = [
        n("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        n("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        n("Sigmoid", ["xd"], ["g"]),
        n("QuantizeLinear", ["g", "s", "z"], ["gq"]),
        n("DequantizeLinear", ["gq", "s", "z"], ["gd"]),
        n("Mul", ["xd", "gd"], ["m"]),
        n("QuantizeLinear", ["m", "s", "z"], ["mq"]),
        n("DequantizeLinear", ["mq", "s", "z"], ["y"]),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 5]) for name in ("x", "y")]
    arrays = [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()]
    graph = helper.make_graph(nodes, "silu", value[:1], value[1:], arrays)
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


@pytest.mark.parametrize("signed", [False, True])
def test_codes_of_two_readers_are_computed_on_only_where_they_are_unsigned(signed: bool) -> None:
    """onnxruntime makes int8 to uint8 between one of each only; what it does not fuse dequantizes for each reader."""
    model = silu(signed)
    work = stock_work(model.graph, assumed_shapes(model))
    calls = {kind: row[0] for kind, row in work.items()}
    if signed:
        assert calls == {"QuantizeLinear": 3, "Sigmoid": 1, "DequantizeLinear": 4, "Mul": 1}
    else:
        assert calls == {"QuantizeLinear": 1, "Sigmoid qdq": 1, "Mul qdq": 1, "DequantizeLinear": 1}
    assert all(row[2] == row[0] * prod((2, 5)) for row in work.values())


def test_products_take_in_their_scales() -> None:
    model = load(two_towers())
    found = {node.op: work for node, work in work_by_node(model.graph, assumed_shapes(model)).items()}
    assert {"Cast", "Mul"}.isdisjoint(found) and found["Conv"].keys() == {"Conv qdq pointwise"}
    assert found["MatMulInteger"] == {"MatMulInteger": [1.0, 24.0, 12.0, 0.0, 3.0 * 16 * 8]}  # 4 columns as 16
    assert found["Sin"] == {"Sin": [1.0, 0.0, 12.0, 0.0, 0.0]} and "QuantizeLinear" in found


@pytest.mark.parametrize(("half", "taken_in"), [(0.5, True), (0.25, False)])
def test_gelu_by_tanh_is_one_kernel(half: float, taken_in: bool) -> None:
    model = load(
        onnx.parser.parse_model(
            f"""<ir_version: 8, opset_import: ["" : 17]> net (float[2,8] x) => (float[2,8] y) {{
                three = Constant<value_float=3.0>()  d = Constant<value_float=0.044715>()
                c = Constant<value_float=0.7978845608>()  one = Constant<value_float=1.0>()
                half = Constant<value_float={half}>()
                cube = Pow(x, three)  bent = Mul(cube, d)  sum = Add(x, bent)  inner = Mul(sum, c)  t = Tanh(inner)
                raised = Add(t, one)  halved = Mul(x, half)  y = Mul(halved, raised) }}"""
        )
    )
    found = stock_work(model.graph, assumed_shapes(model))
    assert (found == {"Gelu": [1.0, 0.0, 16.0, 0.0, 0.0]}) is taken_in and ("Tanh" in found) is not taken_in


def test_a_tanh_that_is_the_result_is_no_gelu() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[2,8] x) => (float[2,8] y) { y = Tanh(x) }'
    model = load(onnx.parser.parse_model(text))
    assert stock_work(model.graph, assumed_shapes(model)) == {"Tanh": [1.0, 0.0, 16.0, 0.0, 0.0]}


@pytest.mark.parametrize("computed", [False, True])
def test_a_stored_weight_is_read_once_or_computed_once(computed: bool) -> None:
    """By MatMul its codes are multiplied as they are; Conv waits for a DequantizeLinear in each run."""
    model = load(
        onnx.parser.parse_model(
            """<ir_version: 8, opset_import: ["" : 17]> net (float[2,8,4] x) => (float[2,8,3] y)
            <int8[8,8,1] a = {ones8}, float[8] s = {eight}, int8[4,3] b = {ones3}, float[3] t = {1, 1, 1}> {
                v = DequantizeLinear<axis = 0>(a, s)  h = Conv(x, v)  w = DequantizeLinear<axis = 1>(b, t)
                y = MatMul(h, w) }""".replace("{ones8}", "{" + ", ".join(["1"] * 64) + "}")
            .replace("{ones3}", "{" + ", ".join(["1"] * 12) + "}")
            .replace("{eight}", "{" + ", ".join(["1"] * 8) + "}")
        )
    )
    found = {node.op: w for node, w in work_by_node(model.graph, assumed_shapes(model), computed=computed).items()}
    assert found["MatMul"] == {f"MatMul {'computed' if computed else 'stored'}": [1.0, 64.0, 48.0, 12.0, 48.0 * 4]}
    dequantized = {} if computed else {"DequantizeLinear": [1.0, 0.0, 64.0, 0.0, 0.0]}
    assert found["Conv"] == {"Conv pointwise": found["Conv"]["Conv pointwise"], **dequantized}
