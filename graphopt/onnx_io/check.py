"""ONNX's checker for models of any size: it sees the structure, the tensors are checked one by one."""

from __future__ import annotations

import onnx

from ..errors import ModelError
from ..ir import Constant, Graph, Model
from ..ops import type_proto
from .emit import Emitter
from .lift import load


def check(model: Model | onnx.ModelProto) -> None:
    """Raise ModelError, in one line, if the model is not valid ONNX or its types contradict each other.

    Structure and attributes by `onnx.checker`, types by strict shape inference without the types the file declares for
    intermediate values, each tensor's data by its length. An operator that its (standard) domain does not have is
    invalid; operators of other domains are not looked into.
    """
    if not isinstance(model, Model):
        model = load(model, infer=False)
    skeleton = Emitter(model, skeleton=True).model()
    typed = onnx.ModelProto()
    typed.CopyFrom(skeleton)
    for info, port in zip(typed.graph.output, model.graph.ports):
        if port.type is not None:
            info.type.CopyFrom(type_proto(port.type))
            if info.type.HasField("tensor_type"):
                info.type.tensor_type.shape.SetInParent()  # the checker wants one, onnxruntime does not
    try:
        onnx.checker.check_model(typed.SerializeToString())
        onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelError(f"the model is not valid: {one_line(error)}") from error
    for graph in (model.graph, *(function.body.graph for function in model.functions.values())):
        _check_constants(graph)


def _check_constants(graph: Graph) -> None:
    """Read every tensor once; what is mapped from a file was measured when it was lifted."""
    seen: set[Constant] = set()
    for inner in graph.graphs():
        found = [value.default for value in inner.inputs]
        for node in (*inner.snapshot(), inner.return_node):
            found += [value.constant for value in node.inputs if value is not None]
            found += [value for value in node.attrs.values() if isinstance(value, Constant)]
        for constant in found:
            if constant is not None and constant not in seen:
                seen.add(constant)
                constant.array()


def one_line(error: Exception) -> str:
    """The text of an error of a C++ library without its line breaks."""
    return " ".join(str(error).split())
