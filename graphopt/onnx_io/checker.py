"""ONNX's checker for models of any size: the structure is checked without weights, the tensors one by one."""

from __future__ import annotations

import onnx

from ..errors import ModelError, one_line
from ..ir import Constant, Model
from ..ops import DEFAULT_DOMAIN, type_proto
from .emit import Emitter
from .lift import load
from .weights import constants_of


def check(model: Model | onnx.ModelProto) -> None:
    """Raise ModelError, in one line, if the model is not valid ONNX or its types contradict each other.

    Structure and attributes are checked by `onnx.checker`, types by strict shape inference without the file's declared
    types of intermediate values, each tensor's data by its length. An operator unknown to its (standard) domain is
    invalid; operators of other domains, and those that onnxruntime adds to the standard one, are not checked.
    """
    if not isinstance(model, Model):
        model = load(model, infer=False)
    skeleton = Emitter(model, skeleton=True).model()
    _set_aside_external(skeleton)
    _set_aside_contrib(skeleton)
    typed = onnx.ModelProto()
    typed.CopyFrom(skeleton)
    for info, port in zip(typed.graph.output, model.graph.ports):
        if port.type is not None:
            info.type.CopyFrom(type_proto(port.type))
    typed.ir_version = min(typed.ir_version, onnx.IR_VERSION)  # a later one may be valid
    for info in (*typed.graph.input, *typed.graph.output):
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.shape.SetInParent()  # the checker requires a shape, onnxruntime does not
    try:
        onnx.checker.check_model(typed.SerializeToString())
        _infer(skeleton, model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelError(f"the model is not valid: {one_line(error)}") from error
    for constant in constants_of(model):
        constant.array()  # checks the length of the data; that of external data was checked when it was lifted
    for graph in (model.graph, *(function.body.graph for function in model.functions.values())):
        for attribute in (value for node in graph.walk() for value in node.attrs.values()):
            if isinstance(attribute, Constant):
                attribute.array()


def _infer(skeleton: onnx.ModelProto, model: Model) -> None:
    """Strict inference; with the declared types where operators of other domains leave results without one."""
    try:
        onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        if not any(node.domain for node in model.graph.walk()):
            raise
        declared = Emitter(model).model()
        _set_aside_external(declared)
        _set_aside_contrib(declared)
        onnx.shape_inference.infer_shapes(declared, check_type=True, strict_mode=True)


def _set_aside_external(proto: onnx.ModelProto) -> None:
    """Replace weights with external data, which inference would read, by typed inputs."""
    outside = [t for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    inside = [t for t in proto.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    known = {value.name for value in proto.graph.input}
    infos = [
        onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in outside if t.name not in known
    ]
    kept = onnx.GraphProto(initializer=inside)
    proto.graph.ClearField("initializer")
    proto.graph.initializer.extend(kept.initializer)
    proto.graph.input.extend(infos)


def _set_aside_contrib(proto: onnx.ModelProto) -> None:
    """Move onnxruntime's operators in ONNX's own domain to onnxruntime's domain, which the checker ignores."""
    found = [node for node in proto.graph.node if not node.domain and node.op_type in DEFAULT_DOMAIN]
    for node in found:
        node.domain = "com.microsoft"
    if found and not any(opset.domain == "com.microsoft" for opset in proto.opset_import):
        proto.opset_import.add(domain="com.microsoft", version=1)
