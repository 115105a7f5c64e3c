"""Prepare a model for differentiation rules: opset 18 or later, functions inlined, composites expanded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError, one_line
from ..ir import Constant, Graph, Model, Node, Value, clone_model
from ..onnx_io import infer_types, load, to_proto
from ..ops import attr, nested_graphs, schema_of, version_for
from .settling import settle

if TYPE_CHECKING:
    import onnx

    from ..onnx_io.source import ModelSource

OPSET = 18
"""The opset of gradients: from it on, reductions take axes as inputs and scatters reduce."""
_RELABELLED = 13
"""From this opset to 18 only reductions, Split and RoiAlign changed their form (ONNX's changelog)."""
_OLD_SCAN = 8
"""The opset whose Scan has a batch axis and sequence lengths (ONNX's changelog)."""
_IR_VERSION = 8
"""The IR version that came with opset 18 (ONNX's table of versions)."""
_REDUCTIONS = frozenset(
    f"Reduce{kind}" for kind in ("Max", "Mean", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
)
_DEFINED = "graphopt.defined"
"""The domain of functions that replace single calls while a model is inlined."""
EXPANDED = (
    "Attention", "RotaryEmbedding", "MeanVarianceNormalization", "NegativeLogLikelihoodLoss", "SwiGLU",
    "SoftmaxCrossEntropyLoss", "AffineGrid", "CenterCropPad", "LinearAttention", "CausalConvWithState", "Bernoulli",
)  # fmt: skip
"""Operators that are differentiated through their function bodies in ONNX."""


def prepare(source: ModelSource | Model, *, own: bool = False) -> Model:
    """A model at opset 18 or later, without function calls. ModelError where it cannot be converted.

    own: the source is a typed model that may be edited in place; else it is copied.
    """
    model = load(source) if not isinstance(source, Model) else source if own else clone_model(source)
    if model.opset == _OLD_SCAN and any(node.op == "Scan" for node in model.graph.walk()):
        raise ModelError("a Scan of opset 8, over the rows of a batch, which no converter knows: export at 9 or later")
    if 0 < model.opset < _RELABELLED:
        model = _converted(model)
    if model.opset < OPSET:
        for graph in model.graph.graphs():
            for node in graph:
                _raise(graph, node)
        model.opsets[""] = OPSET
        model.ir_version = max(model.ir_version, _IR_VERSION)
    spelled = [_spell_defaults(graph, node) for graph in model.graph.graphs() for node in graph]
    if model.functions or any(node.op in EXPANDED for node in model.graph.walk()):
        model = _inlined(model)
    if not own or any(spelled):
        infer_types(model)
    settle(model.graph)
    return model


def _raise(graph: Graph, node: Node) -> None:
    """Convert a node of opset 13 to 17 to its form in opset 18."""
    if node.op in _REDUCTIONS and "axes" in node.attrs:
        axes = Value(constant=Constant.of(np.array(node.attrs["axes"], np.int64)))
        graph.set_attr(node, "axes", None)
        graph.set_inputs(node, [node.inputs[0], axes])
    elif node.op == "Split" and node.input(1) is None:
        graph.set_attr(node, "num_outputs", len(node.outputs))
    elif node.op == "RoiAlign" and version_for(node) < 16 and "coordinate_transformation_mode" not in node.attrs:
        graph.set_attr(node, "coordinate_transformation_mode", "output_half_pixel")


def _spell_defaults(graph: Graph, node: Node) -> bool:
    """Write default attributes that ONNX 1.23 ignores: in the inliner's function bodies, in inference of STFT. True if
    any were added."""
    count = len(node.attrs)
    schema = schema_of(node.op, version_for(node)) if node.op in (*EXPANDED, "STFT") else None
    for name in schema.attributes if schema is not None else ():
        if name not in node.attrs and (default := attr(node, name)) is not None:
            graph.set_attr(node, name, default)
    return len(node.attrs) > count


def _converted(model: Model) -> Model:
    """The model at opset 18, by ONNX's own converter."""
    from onnx import version_converter

    try:
        proto = version_converter.convert_version(to_proto(model), OPSET)
    except Exception as error:  # the converter raises RuntimeError, ConvertError and others
        message = f"opset {model.opset} cannot be converted to {OPSET}, which gradients need: {one_line(error)}"
        raise ModelError(message) from error
    return load(proto, folder=model.folder)


def _inlined(model: Model) -> Model:
    """The model with its functions inlined, and the operators of EXPANDED replaced by ONNX's definitions."""
    from onnx import helper, inliner

    proto = to_proto(model)
    for t in proto.graph.initializer:  # the inliner needs the operands' types, and ignores initializers
        proto.graph.value_info.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    _define_calls(proto)
    wanted = [("", name) for name in EXPANDED] + [(f.domain, f.name) for f in proto.functions]
    try:
        inlined = inliner.inline_selected_functions(proto, wanted, inline_schema_functions=True)
    except Exception as error:
        raise ModelError(f"functions cannot be inlined: {one_line(error)}") from error
    return load(inlined, folder=model.folder)


def _define_calls(proto: onnx.ModelProto) -> None:
    """Turn calls with a missing operand before a given one, which the inliner rejects, into function calls."""
    import onnx
    from onnx import defs

    version = next((o.version for o in proto.opset_import if o.domain == ""), 0)
    count = 0
    for node, types in _typed_nodes(proto.graph, {}):
        if node.domain or node.op_type not in EXPANDED or "" not in node.input:
            continue
        operands = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        schema: Any = defs.get_schema(node.op_type, version)
        if not schema.has_context_dependent_function:
            continue
        known = schema.context_dependent_function_opset_versions
        chosen = max((v for v in known if v <= version), default=known[0])
        function = onnx.FunctionProto.FromString(
            schema.get_context_dependent_function_with_opset_version(chosen, node.SerializeToString(), operands)
        )
        function.domain, function.name = _DEFINED, f"{node.op_type}{count}"
        node.domain, node.op_type = function.domain, function.name
        proto.functions.append(function)
        count += 1
    if count:
        proto.opset_import.append(onnx.helper.make_opsetid(_DEFINED, 1))


def _typed_nodes(
    graph: onnx.GraphProto, outer: Mapping[str, onnx.TypeProto]
) -> Iterator[tuple[onnx.NodeProto, Mapping[str, onnx.TypeProto]]]:
    """The nodes of a graph and of all graphs nested in it, with the types of the values that a node can read."""
    types = {**outer, **{v.name: v.type for v in (*graph.input, *graph.value_info)}}
    for node in graph.node:
        yield node, types
        for nested in nested_graphs(node):
            yield from _typed_nodes(nested, types)
