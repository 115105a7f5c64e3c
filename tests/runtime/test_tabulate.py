"""A binary operation whose sides are functions of the same codes becomes a table, and joins its product."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.runtime import Session
from graphopt.runtime.lower.operations import Binary, Table
from tests.runtime.reference import check_regions, fused_operations


def spelled_out(middle: list[Any], zero: int) -> onnx.ModelProto:
    """x, quantized, through a 1×1 Conv to c; `middle` computes m from c; every result quantized and dequantized."""
    rng = np.random.default_rng(3)
    constants = {
        "w": rng.integers(-90, 90, (24, 8, 1, 1)).astype(np.int8), "ws": np.float32(0.02), "wz": np.int8(0),
        "xs": np.float32(0.03), "xz": np.uint8(120), "three": np.float32(3), "sixth": np.float32(1 / 6),
        "low": np.float32(0), "high": np.float32(6),
    }  # fmt: skip
    nodes: list[Any] = []

    def quantized(name: str, scale: float) -> None:
        constants[f"{name}s"], constants[f"{name}z"] = np.float32(scale), np.uint8(zero)
        nodes.append(helper.make_node("QuantizeLinear", [f"{name}f", f"{name}s", f"{name}z"], [f"{name}q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}q", f"{name}s", f"{name}z"], [name]))

    nodes.append(helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]))
    nodes.append(helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]))
    nodes.append(helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]))
    nodes.append(helper.make_node("Conv", ["xd", "wd"], ["cf"]))
    quantized("c", 0.08)
    for op, inputs, output in middle:
        nodes.append(helper.make_node(op, inputs, [f"{output}f"]))
        quantized(output, 0.05)
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 5, 5])],
        [helper.make_tensor_value_info("m", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


HARD_SWISH = [
    ("Add", ["c", "three"], "a"), ("Clip", ["a", "low", "high"], "k"), ("Mul", ["c", "k"], "p"),
    ("Mul", ["p", "sixth"], "m"),
]  # fmt: skip
SQUARE = [("Mul", ["c", "c"], "m")]
COUSINS = [("Sigmoid", ["c"], "a"), ("Tanh", ["c"], "k"), ("Sub", ["a", "k"], "p"), ("Add", ["p", "c"], "m")]
SHARED = [("Relu", ["c"], "a"), ("Sigmoid", ["a"], "k"), ("Mul", ["k", "a"], "p"), ("Add", ["p", "a"], "m")]


@pytest.mark.parametrize("middle", [HARD_SWISH, SQUARE, COUSINS, SHARED], ids=["swish", "square", "cousins", "shared"])
@pytest.mark.parametrize("zero", [0, 128])
def test_one_function_of_the_codes(middle: list[Any], zero: int) -> None:
    session = Session(spelled_out(middle, zero), 1, kernels=True)
    feeds = {"x": np.random.default_rng(1).normal(0, 2, (2, 8, 5, 5)).astype(np.float32)}
    check_regions(session, feeds)
    session.run(None, feeds)
    (region,) = session.regions
    operations = fused_operations(region.segment, ((2, 8, 5, 5),))
    assert not any(isinstance(o, (Binary, Table)) for o in operations), "all of it is the product's epilogue"
