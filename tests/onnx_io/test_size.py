"""The size of a model, told without serialising it, is that of its file."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.onnx_io import file_bytes, load, to_proto


def test_large_models_are_sized_exactly():
    tensors = [numpy_helper.from_array(np.ones(1000, np.float32), f"small{i}") for i in range(300)]
    tensors.append(numpy_helper.from_array(np.ones(5_000_000, np.float32), "large"))
    nodes = [helper.make_node("Concat", [t.name for t in tensors], ["y"], axis=0)]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [], [y], tensors)
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    exact = to_proto(model).ByteSize()
    assert file_bytes(model) == exact
    assert file_bytes(model, to_proto(model).SerializeToString()) == exact
    assert isinstance(to_proto(model), onnx.ModelProto)
