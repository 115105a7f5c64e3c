"""Models in operators that only onnxruntime has: types that ONNX cannot infer, codes whose sign nothing else tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnxruntime import quantization

from graphopt.onnx_io import load
from graphopt.runtime import Session
from graphopt.runtime.place.assumed import assumed_shapes
from tests.runtime.reference import check_regions

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,H,W] x) => (float[N,5] best, int64[N,5] place) {
    a = Conv<kernel_shape = [3,3], pads = [1,1,1,1]>(x, w1, b1)
    l = LeakyRelu<alpha = 0.1>(a)
    p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(l)
    c = Conv<kernel_shape = [1,1]>(p, w2, b2)
    s = Sigmoid(c)
    m = Mul(c, s)
    f = Flatten(m)
    z = Softmax(f)
    best, place = TopK(z, k)
}
"""


class Samples(quantization.CalibrationDataReader):
    """Four images of standard normal pixels."""

    def __init__(self) -> None:
        self._left = iter([feed(seed) for seed in range(4)])

    def get_next(self) -> Any:
        return next(self._left, None)


def feed(seed: int, size: int = 12) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).standard_normal((2, 3, size, size)).astype(np.float32)}


@pytest.fixture(scope="module", params=["QInt8", "QUInt8"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, rng = onnx.parser.parse_model(GRAPH), np.random.default_rng(7)
    weights = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 1, 1), "b2": (8,)}
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name))
    model.graph.initializer.append(helper.make_tensor("k", onnx.TensorProto.INT64, [1], [5]))
    folder = tmp_path_factory.mktemp("contributed")
    onnx.save(model, folder / "float.onnx")
    quantization.quantize_static(
        folder / "float.onnx", folder / "int8.onnx", Samples(), quant_format=quantization.QuantFormat.QOperator,
        activation_type=getattr(quantization.QuantType, request.param),
    )  # fmt: skip
    return folder / "int8.onnx"


@pytest.mark.parametrize("size", [12, 9])
def test_contributed_operators_compute_what_onnxruntime_does(path: Path, size: int) -> None:
    operators = {node.op_type for node in onnx.load(path).graph.node if node.domain == "com.microsoft"}
    assert {"QLinearLeakyRelu", "QLinearSigmoid", "QLinearMul", "QLinearSoftmax"} <= operators
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    stock = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session = Session(path, threads=1, kernels=True)
    assert session.covered == 2
    for got, want in zip(session.run(None, feed(9, size)), stock.run(None, feed(9, size))):
        np.testing.assert_array_equal(got, want)


CONSTANTS = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
net (uint8[N,4,H,W] x) => (uint8[N,4,H,W] y) {
    a = QLinearConv<kernel_shape = [1,1]>(x, s, z, w, s, wz, s, z)
    b = com.microsoft.QLinearAdd(c, s, z, a, s, z, t, z)
    d = com.microsoft.QLinearMul(c, s, z, b, t, z, s, z)
    e = com.microsoft.QLinearMul(d, s, z, c, s, z, t, z)
    y = QLinearConv<kernel_shape = [1,1]>(e, t, z, w, s, wz, s, z)
}
"""


def test_a_constant_on_either_side_makes_a_table() -> None:
    model, rng = onnx.parser.parse_model(CONSTANTS), np.random.default_rng(0)
    values = {
        "s": np.float32(0.04), "t": np.float32(0.07), "z": np.uint8(120), "wz": np.int8(0), "c": np.uint8(190),
        "w": rng.integers(-100, 100, (4, 4, 1, 1)).astype(np.int8),
    }  # fmt: skip
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in values.items())
    session = Session(model, threads=1, kernels=True)
    assert len(session.regions) == 1, session.describe()
    kinds = [type(operation).__name__ for operation in session.regions[0].segment.operations]
    assert kinds == ["Conv", "Table", "Table", "Table", "Conv"]
    x = {"x": rng.integers(0, 256, (2, 4, 5, 5)).astype(np.uint8)}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    stock = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, x)[0], stock.run(None, x)[0])


ATTENTION = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,5,16] x) => (float[N,5,16] y) {
    q = MatMul(x, wq) qb = Add(q, bq) qr = Reshape(qb, split) qt = Transpose<perm = [0,2,1,3]>(qr)
    k = MatMul(x, wk) kb = Add(bk, k) kr = Reshape(kb, split) kt = Transpose<perm = [0,2,3,1]>(kr)
    v = MatMul(x, wv) vr = Reshape(v, split) vt = Transpose<perm = [0,2,1,3]>(vr)
    a = MatMul(qt, kt) h = Mul(a, half) p = Softmax<axis = -1>(h) c = MatMul(p, vt)
    t = Transpose<perm = [0,2,1,3]>(c) sizes = Shape(x) r = Reshape(t, sizes) o = MatMul(r, wo) e = Add(o, x)
    z = Add(e, grid) y = LayerNormalization(z, g, b)
}
"""


@pytest.mark.parametrize("kind", ["QUInt8", "QInt8"])
def test_attention_in_onnxruntimes_own_operators_is_one_region(kind: str, tmp_path: Path) -> None:
    """Constants along the channels and of other shapes, products of activations, Softmax; sizes that follow."""
    model, rng = onnx.parser.parse_model(ATTENTION), np.random.default_rng(3)
    shapes = {**dict.fromkeys(("wq", "wk", "wv", "wo"), (16, 16)), **dict.fromkeys(("bq", "bk", "g", "b"), (16,))}
    for name, shape in {**shapes, "grid": (5, 16), "half": ()}.items():
        values = np.asarray(rng.normal(0, 0.5, shape), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    model.graph.initializer.append(helper.make_tensor("split", onnx.TensorProto.INT64, [4], [0, 0, 2, 8]))
    feeds = [{"x": rng.standard_normal((2, 5, 16)).astype(np.float32)} for _ in range(4)]

    class Reader(quantization.CalibrationDataReader):
        left = iter(feeds)

        def get_next(self) -> Any:
            return next(self.left, None)

    onnx.save(model, tmp_path / "m.onnx")
    quantization.quantize_static(
        tmp_path / "m.onnx", tmp_path / "q.onnx", Reader(), quant_format=quantization.QuantFormat.QOperator,
        activation_type=getattr(quantization.QuantType, kind), weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )  # fmt: skip
    session = Session(tmp_path / "q.onnx", threads=1, kernels=True)
    assert len(session.regions) == 1, session.describe()
    kinds = {type(operation).__name__ for operation in session.regions[0].segment.operations}
    assert {"ActivationMatMul", "Binary", "ChannelTable", "LayerNorm", "MatMul", "Softmax"} <= kinds
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    stock = ort.InferenceSession(tmp_path / "q.onnx", options, providers=["CPUExecutionProvider"])
    assert check_regions(session, feeds[0]).total() >= 10
    for feed in feeds:  # a code of the least significant place is a fiftieth here
        np.testing.assert_allclose(session.run(None, feed)[0], stock.run(None, feed)[0], atol=0.05)
    lifted = load(tmp_path / "q.onnx")
    known = assumed_shapes(lifted)
    assert {known[value][1:] for value in lifted.graph.outputs} == {(5, 16)}
    assert all(value in known for node in lifted.graph for value in node.outputs)
