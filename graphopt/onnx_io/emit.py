"""Emission of the IR as ONNX. The same model gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from ..ir import Function, Model, Value, collector_paused
from .graph_writer import Form, GraphWriter, Store, write_metadata
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


def _write_opsets(imports: Sequence[onnx.OperatorSetIdProto], opsets: Mapping[str, int]) -> None:
    for domain, version in opsets.items():
        imports.add(domain=domain, version=version)  # type: ignore[attr-defined]
