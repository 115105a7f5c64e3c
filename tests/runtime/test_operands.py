"""Constants behind quantization are what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.measure import ort_session
from graphopt.onnx_io import load
from graphopt.runtime.lower.operands import constant_array

SHAPE, AXIS = (5, 7), 1


@pytest.mark.parametrize("per_axis", [False, True])
@pytest.mark.parametrize("codes", ["int8", "uint8", "int16", "int32"])
def test_quantized_and_dequantized_constants_are_exact(codes: str, per_axis: bool) -> None:
    rng, dtype = np.random.default_rng(3), np.dtype(codes)
    info, sizes = np.iinfo(dtype), SHAPE[AXIS:] if per_axis else ()
    zero = 0 if codes == "int32" else np.asarray(rng.integers(info.min // 2, info.max // 2, sizes))
    arrays = {
        "x": (rng.normal(size=SHAPE) * 10.0 ** rng.integers(-2, 12, SHAPE)).astype(np.float32),
        "scale": np.asarray(rng.random(sizes) + 0.01, np.float32), "zero": np.broadcast_to(zero, sizes).astype(dtype),
        "codes": rng.integers(info.min, info.max, SHAPE, endpoint=True).astype(dtype),
    }  # fmt: skip
    nodes = [helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"], axis=AXIS)]
    if dtype.itemsize == 1:
        nodes.append(helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["z"], axis=AXIS))
    types = {"y": TensorProto.FLOAT, "z": helper.np_dtype_to_tensor_dtype(dtype)}
    graph = helper.make_graph(
        nodes, "constants", [], [helper.make_tensor_value_info(n.output[0], types[n.output[0]], SHAPE) for n in nodes],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    wanted = ort_session(proto.SerializeToString(), optimize=False).run(None, {})
    for value, array in zip(load(proto).graph.outputs, wanted, strict=True):
        np.testing.assert_array_equal(constant_array(value), array, strict=True)
