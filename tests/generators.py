"""Large generated models: chains for scaling tests, external data of several gigabytes for memory tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 16


def generate_chain(n_nodes: int) -> onnx.ModelProto:
    """`n_nodes` alternating Add (of a distinct constant), Relu and Identity on f32[N,16]."""
    names = ["x", *(f"h{index}" for index in range(n_nodes - 1)), "y"]
    nodes, weights = [], []
    for index, (given, made) in enumerate(zip(names, names[1:], strict=False)):
        operator = ("Add", "Relu", "Identity")[index % 3]
        inputs = [given]
        if operator == "Add":
            bias = np.full(WIDTH, 1e-3 * (index + 1) / n_nodes, np.float32)
            weights.append(numpy_helper.from_array(bias, f"b{index}"))
            inputs.append(f"b{index}")
        nodes.append(helper.make_node(operator, inputs, [made]))
    return _model(nodes, weights, "chain", ["N", WIDTH])


def generate_external(path: Path, gigabytes: float = 3.0, side: int = 4096) -> Path:
    """A MatMul chain at `path` whose f32[side,side] weights lie in `path`.data: a sparse file of zeros, so it costs
    neither disk nor time. Returns `path`."""
    size = side * side * 4
    count = max(1, round(gigabytes * 1e9 / size))
    data = path.with_name(path.name + ".data")
    with data.open("wb") as stream:
        stream.truncate(count * size)
    names = ["x", *(f"h{index}" for index in range(count - 1)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(count)]
    weights = []
    for index in range(count):
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[side, side])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", data.name), ("offset", index * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
    path.write_bytes(_model(nodes, weights, "external", ["N", side]).SerializeToString())
    return path


def _model(
    nodes: list[onnx.NodeProto], weights: list[TensorProto], name: str, shape: list[str | int]
) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(port, TensorProto.FLOAT, shape) for port in ("x", "y"))
    graph = helper.make_graph(nodes, name, [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
