"""Models that tests of the search build."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def branched() -> onnx.ModelProto:
    """Two branches with a convolution each, of which samples take the first."""

    def body(name):
        weight = np.random.default_rng(len(name)).normal(size=(16, 3, 3, 3)).astype(np.float32)
        second = np.random.default_rng(9).normal(size=(4, 16, 1, 1)).astype(np.float32)
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], name="first"), helper.make_node("Relu", ["c"], ["d"]),
            helper.make_node("Conv", ["d", "v"], [name], name="second"),
        ]  # fmt: skip
        made = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 6, 6])
        constants = [numpy_helper.from_array(array, key) for key, array in (("w", weight), ("v", second))]
        return helper.make_graph(nodes, name, [], [made], constants)

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=body("a"), else_branch=body("bb"), name="if")
    graph = helper.make_graph([node], "g", [x, flag], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
