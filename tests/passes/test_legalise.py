"""Range gets scalars once its one-element operands are seen."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import graphopt


def test_hidden_vectors_become_scalars():
    """A branch hides that the limit is [1]; inlined, onnxruntime would refuse the model."""
    hidden = helper.make_graph(
        [helper.make_node("Mul", ["n", "one"], ["limit"])],
        "hidden",
        [],
        [helper.make_tensor_value_info("limit", TensorProto.INT64, None)],
    )
    nodes = [
        helper.make_node("If", ["yes"], ["l"], then_branch=hidden, else_branch=hidden),
        helper.make_node("Range", ["zero", "l", "step"], ["r"]),
        helper.make_node("Add", ["r", "n"], ["y"]),
    ]
    constants = {"yes": True, "one": [1], "zero": 0, "step": 1}
    n = helper.make_tensor_value_info("n", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, ["k"])
    tensors = [numpy_helper.from_array(np.array(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [n], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = graphopt.optimize(model, validate=False)
    assert "If" not in result.report.after.operators
    onnx.checker.check_model(result.model)
    assert graphopt.compare(model, result.model, {"n": np.array([4])}).status == "equal"
