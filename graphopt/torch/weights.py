"""Write a module's weights back into the file that the module was built from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import InputError
from ..ir import Model
from ..onnx_io import load, to_proto
from .arrays import to_array
from .module import OnnxModule, digest

if TYPE_CHECKING:
    import onnx

    from ..onnx_io.source import ModelSource


def written_back(module: Any, source: ModelSource | Model) -> onnx.ModelProto:
    """`graphopt.torch.from_module`."""
    if not isinstance(module, OnnxModule):
        raise InputError(f"a {type(module).__name__} is no module that graphopt.torch.to_module made")
    state: dict[str, Any] = module.state_dict(keep_vars=True)
    changed = {name: state[name] for name, known in module._untouched.items() if digest(state[name]) != known}
    proto = _copy(source)
    for tensor, name in _tensors(proto.graph):
        if name in changed:
            _replace(tensor, name, changed.pop(name))
    if changed:
        raise InputError(f"the model has no initializer {sorted(changed)[0]!r}, which the module changed")
    return proto


def _copy(source: ModelSource | Model) -> onnx.ModelProto:
    import onnx

    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return copy
    if isinstance(source, bytes):
        parsed: onnx.ModelProto = onnx.ModelProto.FromString(source)
        return parsed
    if isinstance(source, (str, os.PathLike)):
        loaded: onnx.ModelProto = onnx.load(source, load_external_data=False)
        return loaded
    return to_proto(source if isinstance(source, Model) else load(source, infer=False))


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[onnx.TensorProto, str]]:
    """All initializers and the tensors of Constant nodes, with their names, of nested graphs, too."""
    for tensor in graph.initializer:
        yield tensor, tensor.name
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            elif node.op_type == "Constant" and attribute.name == "value":
                yield attribute.t, node.output[0]


def _replace(tensor: onnx.TensorProto, name: str, value: Any) -> None:
    from onnx import helper, numpy_helper

    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    wide = value.to(torch.float32) if value.dtype is torch.bfloat16 else value
    array = to_array(value if value.dtype is torch.bfloat16 and kind.name == "bfloat16" else wide)
    if tuple(array.shape) != tuple(tensor.dims):
        raise InputError(f"{name!r} is {tuple(array.shape)} in the module and {tuple(tensor.dims)} in the model")
    made = numpy_helper.from_array(np.ascontiguousarray(array.astype(kind)).reshape(array.shape), tensor.name)
    made.doc_string = tensor.doc_string
    tensor.CopyFrom(made)
