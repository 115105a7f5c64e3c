"""Products quantized while running, in every form that onnxruntime's tools write, equal the reference bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from graphopt.runtime import Session
from tests.runtime.reference import check_regions
from tests.runtime.test_session import sqnr

RNG = np.random.default_rng(7)
WEIGHTS = {
    "w1": RNG.normal(0, 0.1, (48, 70)).astype(np.float32), "b1": RNG.normal(size=70).astype(np.float32),
    "w2": RNG.normal(0, 0.1, (70, 33)).astype(np.float32), "b2": RNG.normal(size=33).astype(np.float32),
}  # fmt: skip


def model(nodes: list[Any], constants: dict[str, Any]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", None, 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def two_layers(tmp_path: Path, weight_type: Any, per_channel: bool) -> onnx.ModelProto:
    n = helper.make_node
    nodes = [
        n("MatMul", ["x", "w1"], ["h"]), n("Add", ["h", "b1"], ["a"]), n("Tanh", ["a"], ["g"]),
        n("MatMul", ["g", "w2"], ["o"]), n("Add", ["b2", "o"], ["y"]),
    ]  # fmt: skip
    onnx.save(model(nodes, WEIGHTS), tmp_path / "float.onnx")
    quantization.quantize_dynamic(
        tmp_path / "float.onnx", tmp_path / "dynamic.onnx", per_channel=per_channel, weight_type=weight_type
    )
    return onnx.load(tmp_path / "dynamic.onnx")


def feeds(rows: int = 5, seed: int = 0) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).normal(0.3, 1, (2, rows, 48)).astype(np.float32)}


def stock(proto: onnx.ModelProto, given: dict[str, Any]) -> Any:
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)[0]


@pytest.mark.parametrize("weight_type", [quantization.QuantType.QInt8, quantization.QuantType.QUInt8])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_spelled_out(tmp_path: Path, weight_type: Any, per_channel: bool, threads: int) -> None:
    proto = two_layers(tmp_path, weight_type, per_channel)
    session = Session(proto, threads, kernels=True)
    assert session.covered == 2, session.describe()
    for rows in (1, 5, 40):
        assert check_regions(session, feeds(rows)) == {"DynamicMatMul": 2, "FloatFunction": 1}
        assert sqnr(session.run(None, feeds(rows))[0], stock(proto, feeds(rows))) > 60


@pytest.mark.parametrize("biased", [False, True])
def test_fused_by_onnxruntime(biased: bool) -> None:
    codes = np.random.default_rng(1).integers(-127, 128, (48, 70)).astype(np.int8)
    scale = np.random.default_rng(2).uniform(1e-3, 1e-2, 70).astype(np.float32)
    inputs = ["x", "w", "s", "", "b1"] if biased else ["x", "w", "s"]
    nodes = [
        helper.make_node("DynamicQuantizeMatMul", inputs, ["h"], domain="com.microsoft"),
        helper.make_node("DynamicQuantizeLinear", ["h"], ["q", "qs", "qz"]),
        helper.make_node("MatMulIntegerToFloat", ["q", "v", "qs", "t", "qz"], ["y"], domain="com.microsoft"),
    ]
    other = np.random.default_rng(3).integers(-127, 128, (70, 9)).astype(np.int8)
    constants = {"w": codes, "s": scale, "v": other, "t": np.float32(0.01)}
    proto = model(nodes, constants | ({"b1": WEIGHTS["b1"]} if biased else {}))
    session = Session(proto, 1, kernels=True)
    assert session.covered == 2 and len(session.regions) == 1
    check_regions(session, feeds())
    assert sqnr(session.run(None, feeds())[0], stock(proto, feeds())) > 40


def test_zeros_nan_and_infinity(tmp_path: Path) -> None:
    """All zeros have scale 1; a NaN is no extreme and becomes zero; results are finite where the input is."""
    proto = two_layers(tmp_path, quantization.QuantType.QInt8, False)
    session = Session(proto, 1, kernels=True)
    given = {"x": np.zeros((2, 5, 48), np.float32)}
    np.testing.assert_array_equal(session.run(None, given)[0], stock(proto, given))
    given = feeds()
    clean = session.run(None, given)[0]
    given["x"][0, 0, 0] = np.nan
    assert np.isfinite(session.run(None, given)[0]).all()
    np.testing.assert_array_equal(session.run(None, feeds())[0], clean)


def test_what_is_left_says_why() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft"),
    ]
    graph_inputs = {"s": np.float32(0.1)}
    proto = model(nodes, graph_inputs)
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.INT8, [48, 7]))
    assert "weights that are not constant" in str(Session(proto, 1).describe())
