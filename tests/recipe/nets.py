"""A small network for tests of recipes and of workers."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def network() -> onnx.ModelProto:
    """Three convolutions, with a shortcut around the third, and a product; x [N, 3, 8, 8] to y [N, 10]."""
    rng = np.random.default_rng(0)
    shapes = {"a": (16, 3, 3, 3), "b": (32, 16, 3, 3), "c": (32, 32, 3, 3), "d": (32, 10)}
    weights = [
        numpy_helper.from_array((rng.standard_normal(s) * (2 / np.prod(s[1:])) ** 0.5).astype("f4"), n)
        for n, s in shapes.items()
    ]
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], "first", **pads),
        helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("Conv", ["q", "b"], ["r"], "second", strides=[2, 2], **pads),
        helper.make_node("Relu", ["r"], ["s"]),
        helper.make_node("Conv", ["s", "c"], ["t"], "third", **pads),
        helper.make_node("Add", ["s", "t"], ["u"], "shortcut"),
        helper.make_node("GlobalAveragePool", ["u"], ["v"], "pool"),
        helper.make_node("Flatten", ["v"], ["w"], "flat"),
        helper.make_node("MatMul", ["w", "d"], ["y"], "fourth"),
    ]
    sizes = {"x": ["N", 3, 8, 8], "y": ["N", 10]}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items())
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def samples(count: int = 16) -> dict[str, np.ndarray]:
    """Inputs of the network."""
    return {"x": np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype("f4")}


def products() -> onnx.ModelProto:
    """Four products with clamps between; x [N, 32] to y [N, 32]."""
    rng = np.random.default_rng(3)
    weights = [numpy_helper.from_array((rng.standard_normal((32, 32)) * 0.25).astype("f4"), n) for n in "abcd"]
    nodes, last = [], "x"
    for name, weight in zip(("first", "second", "third", "fourth"), "abcd"):
        result = "y" if weight == "d" else f"{weight}_result"
        nodes.append(helper.make_node("MatMul", [last, weight], [result], name))
        last = result
        if weight != "d":
            nodes.append(helper.make_node("Relu", [last], [f"{weight}_clamped"]))
            last = f"{weight}_clamped"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 32]) for name in "xy")
    graph = helper.make_graph(nodes, "products", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
