"""Small models to be edited, and runs of them by onnxruntime."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def net(pad: int = 1, batch: int | str = "N", opset: int = 13) -> onnx.ModelProto:
    """Conv, Relu, mean over the image (output `mean`), Gemm (output `scores`); with texts and metadata."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.standard_normal((4, 5)).astype(np.float32), "m"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[pad] * 4, name="conv", doc_string="first"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("ReduceMean", ["r"], ["mean"], axes=[2, 3], keepdims=0, name="pool"),
        helper.make_node("Gemm", ["mean", "m"], ["scores"], name="gemm"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, c]) for n, c in (("mean", 4), ("scores", 5))]
    graph = helper.make_graph(nodes, "net", [x], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model.metadata_props.add(key="author", value="a name")
    return model


def run(model, feeds):
    """The outputs by name, without optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds)))


def ops(model):
    return [node.op_type for node in model.graph.node]


IMAGE = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
"""Two images, channels last."""
X = IMAGE.transpose(0, 3, 1, 2).astype(np.float32) / 255
"""The same as the net takes them."""
