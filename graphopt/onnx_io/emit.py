"""Emission of the IR as ONNX. The same model gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from ..ir import Function, Graph, Model, Value, collector_paused
from ..ops import schema_of, type_proto
from .graph_writer import SKELETON_ELEMENTS, Form, GraphWriter, Store, is_old, write_initializer, write_metadata
from .parts.extras import FunctionExtras, ModelExtras
from .parts.tensors import write_tensor

if TYPE_CHECKING:
    import onnx_ir


def to_proto(model: Model) -> onnx.ModelProto:
    """The model as a proto. Unchanged external tensors stay external, relative to `model.folder`."""
    return Emitter(model).model()


def to_onnx(model: Model) -> onnx_ir.Model:
    """The model as an `onnx_ir.Model`."""
    import onnx_ir

    copy = onnx_ir.serde.deserialize_model(to_proto(model))
    for graph in copy.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, onnx_ir.ExternalTensor):
                value.const_value.base_dir = model.folder
    return copy


class Emitter:
    """Emits one model.

    skeleton: replace constants of more than 1024 elements by typed inputs and leave out the declared types of results;
    ONNX's checker and shape inference see the whole structure in a small proto. store: fills the `TensorProto` of an
    initializer from its constant and name; store_inside: the same for nested graphs, where it differs.
    """

    def __init__(
        self, source: Model, *, skeleton: bool = False, store: Store = write_tensor, store_inside: Store | None = None
    ) -> None:
        self.source = source
        self._form = Form(skeleton, store, store_inside or store, frozenset(source.functions))
        self.values: dict[str, Value] = {}  # of the root graph and all nested in it, by emitted name

    @collector_paused()
    def model(self) -> onnx.ModelProto:
        """The whole model."""
        source = self.source
        proto = _head(source)
        writer = GraphWriter(source, self._form, proto.graph)
        writer.root(proto.graph)
        self.values = {name: value for value, name in writer.names.of.items()}
        for function in source.functions.values():
            self._function(function, proto.functions.add())
        extras = source.raw
        if isinstance(extras, ModelExtras) and not self._form.skeleton:
            proto.training_info.extend(extras.training)
            proto.configuration.extend(extras.devices)
        return proto

    def _function(self, function: Function, proto: onnx.FunctionProto) -> None:
        key, graph = function.id, function.body.graph
        proto.name, proto.domain = key.name, key.domain
        if key.overload:
            proto.overload = key.overload
        if graph.doc:
            proto.doc_string = graph.doc
        _write_opsets(proto.opset_import, function.body.opsets)
        write_metadata(proto.metadata_props, graph.metadata)
        if isinstance(function.raw, FunctionExtras):
            proto.attribute.extend(function.raw.attributes)
            proto.attribute_proto.extend(function.raw.defaults)
        GraphWriter(function.body, self._form).function(proto)


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model as inference of types or shapes reads it (`Emitter`), not to be edited, and its values by emitted name.

    Where no graph is nested it stays the same as results get types: one serves until nodes change.
    """

    proto: onnx.ModelProto
    values: Mapping[str, Value]


def skeleton_of(model: Model) -> Skeleton:
    """The skeleton of a model as it is now."""
    emitter = Emitter(model, skeleton=True)
    proto = emitter.model()
    return Skeleton(proto, emitter.values)


def skeleton_as_lifted(model: Model) -> Skeleton:
    """`skeleton_of` a model as it was lifted, not edited since: nodes are copied from the file, where it has a form in
    which they need no change, at a fraction of the cost."""
    graph, constants, values = model.graph, dict[Value, None](), dict[str, Value]()
    for node in graph:
        constants.update([(value, None) for value in node.inputs if value is not None and value.constant is not None])
        values.update([(value.name, value) for value in node.outputs])
    source = model.raw.proto if isinstance(model.raw, ModelExtras) else None
    nodes = [] if source is None else [n for n in source.graph.node if n.op_type != "Constant" or n.output[0] in values]
    if model.functions or is_old(model) or not _are_copies(graph, nodes):
        return skeleton_of(model)
    proto = _head(model)
    written = proto.graph
    written.name = graph.name
    written.node.extend(nodes)
    for node, copy in zip(graph, written.node):
        if node.doc:
            copy.ClearField("doc_string")
        if node.metadata:
            copy.ClearField("metadata_props")
        if schema_of(node.op, model.opsets.get(node.domain, 0)) is None:
            typed = [value for value in node.outputs if value.type is not None and not value.is_result]
            written.value_info.extend([_typed(value) for value in typed])
    written.output.extend([onnx.ValueInfoProto(name=port.name) for port in graph.ports])
    written.input.extend([_typed(value) for value in graph.inputs])
    held = [(value, value.default) for value in graph.inputs] + [(value, value.constant) for value in constants]
    for value, constant in held:
        if constant is not None and constant.size <= SKELETON_ELEMENTS:
            write_initializer(written, constant, value.name)
    written.input.extend(
        [_typed(v) for v in constants if v.constant is not None and v.constant.size > SKELETON_ELEMENTS]
    )
    values.update([(value.name, value) for value in (*graph.inputs, *constants)])
    return Skeleton(proto, values)


def _are_copies(graph: Graph, protos: Sequence[onnx.NodeProto]) -> bool:
    """Whether a graph's nodes are these, in order, with names for all results, and have no nested graph nor anything
    that a node of the IR does not hold; each result of the graph is computed by a node and returned once."""
    nodes = list(graph)
    return (
        len(nodes) == len(protos)
        and len({*graph.outputs}) == len(graph.outputs)
        and all(value.producer is not None for value in graph.outputs)
        and all(
            node.raw is None and not node.subgraphs and all(proto.output) and proto.domain != "ai.onnx"
            and [*proto.output] == [value.name for value in node.outputs]
            for node, proto in zip(nodes, protos)
        )
    )  # fmt: skip


def _typed(value: Value) -> onnx.ValueInfoProto:
    """The name and the type of a value."""
    return onnx.ValueInfoProto(name=value.name, type=None if value.type is None else type_proto(value.type))


def _head(source: Model) -> onnx.ModelProto:
    """The proto of a model without its graph and functions."""
    proto = onnx.ModelProto(ir_version=source.ir_version)
    if source.producer:
        proto.producer_name = source.producer
    if source.producer_version:
        proto.producer_version = source.producer_version
    if source.domain:
        proto.domain = source.domain
    if source.version is not None:
        proto.model_version = source.version
    if source.doc:
        proto.doc_string = source.doc
    _write_opsets(proto.opset_import, source.opsets)
    write_metadata(proto.metadata_props, source.metadata)
    return proto


def _write_opsets(imports: Sequence[onnx.OperatorSetIdProto], opsets: Mapping[str, int]) -> None:
    for domain, version in opsets.items():
        imports.add(domain=domain, version=version)  # type: ignore[attr-defined]
