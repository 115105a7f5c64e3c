"""Lifting of ONNX files into the IR, without loss and without copying weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx

from ..errors import ModelError
from ..ir import Array, Constant, Function, FunctionId, Graph, Model, Node, Opaque, Port, Type, Value, collector_paused
from ..ops import schema_of, type_of
from .inference import infer_types
from .parts.attributes import read_attribute
from .parts.cache_sizes import cache_sizes, set_sizes
from .parts.extras import FunctionExtras, GraphExtras, ModelExtras, NodeExtras
from .parts.order import in_order, node_place
from .parts.tensors import DataFiles, read_constant, read_sparse
from .source import ModelSource, is_onnx_ir, read_lent

if TYPE_CHECKING:
    import onnx_ir

_FIRST_WITH_CONSTANT_INITIALIZERS = 4  # before that IR version every initializer had to be listed as an input
_ROOT = "the graph"  # the place of the root graph in messages
_FIRST_WITH_OPSETS = 3  # the IR version from which models import operator sets (IR.md)


def load(source: ModelSource, *, infer: bool = True, folder: str = "") -> Model:
    """The IR of a model.

    `source` is a path, bytes, an `onnx.ModelProto` or an `onnx_ir.Model`; `folder`: of external data if the source is
    not a path (the current directory by default). A proto is not copied: do not edit it afterwards. With `infer`, types
    come from ONNX's shape inference, and from the file's declarations where ONNX has no schema of an operator; without
    it, from the declarations only. ModelError, in one line, for an invalid model.
    """
    proto, path, lent = read_lent(source)
    if path:
        path = os.path.abspath(path)  # the current directory may change before data is read
        folder = os.path.dirname(path)
    elif is_onnx_ir(source):
        folder = folder or _base_folder(source)
    files = DataFiles(os.path.abspath(folder) if folder else "", path)
    with collector_paused():
        try:
            model = _lift(proto, lent, files, path, ordered=True)
        except _Unsorted:
            model = _lift(proto, lent, files, path, ordered=False)
        set_sizes(model.graph, cache_sizes(proto.graph))
        if infer:
            infer_types(model)
    return model


class _Unsorted(Exception):
    """Raised where a node reads a value not yet defined: the file is unsorted or invalid."""


def _base_folder(model: onnx_ir.Model) -> str:
    """The folder to which locations of an `onnx_ir.Model`'s external tensors are relative."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            base = getattr(value.const_value, "base_dir", None)
            if base:
                return str(os.fspath(base))
    return ""


def _lift(proto: onnx.ModelProto, lent: Mapping[str, Array], files: DataFiles, path: str, ordered: bool) -> Model:
    opsets = read_opsets(proto.opset_import)
    if not opsets and proto.ir_version < _FIRST_WITH_OPSETS:
        opsets = {"": 1}
    all_constant = 0 < proto.ir_version < _FIRST_WITH_CONSTANT_INITIALIZERS
    functions = {}
    for function in proto.functions:
        key = FunctionId(_domain(function.domain), function.name, function.overload)
        if key in functions:
            raise ModelError(f"function {function.name!r} is defined twice")
        functions[key] = _lift_function(function, key, files, proto.ir_version, ordered)
    lifter = _Lifter(opsets, files, ordered, all_constant)
    bound = {e.value for t in proto.training_info for e in (*t.initialization_binding, *t.update_binding)}
    bound |= {e.key for t in proto.training_info for e in (*t.initialization_binding, *t.update_binding)}
    lifter.pinned, lifter.lent = bound, lent
    graph = lifter.graph(proto.graph, _ROOT)
    listed = tuple(value.name for value in proto.graph.input) if all_constant else ()
    return Model(
        graph, opsets, functions,
        ir_version=proto.ir_version,
        producer=proto.producer_name,
        producer_version=proto.producer_version,
        domain=proto.domain,
        version=proto.model_version if proto.HasField("model_version") else None,
        doc=proto.doc_string,
        metadata={entry.key: entry.value for entry in proto.metadata_props},
        folder=files.folder,
        raw=ModelExtras(tuple(proto.training_info), tuple(proto.configuration), path, listed, proto, lent),
    )  # fmt: skip


def _lift_function(
    proto: onnx.FunctionProto, key: FunctionId, files: DataFiles, ir_version: int, ordered: bool
) -> Function:
    opsets = read_opsets(proto.opset_import)
    lifter = _Lifter(opsets, files, ordered, False)
    graph = lifter.function(proto, f"function {proto.name!r}")
    graph.doc = proto.doc_string
    graph.metadata = {entry.key: entry.value for entry in proto.metadata_props}
    body = Model(graph, opsets, ir_version=ir_version, folder=files.folder)
    return Function(key, body, FunctionExtras(tuple(proto.attribute), tuple(proto.attribute_proto)))


def read_opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Versions by domain; of a domain imported twice, the last import counts, as in onnx and onnxruntime."""
    return {_domain(entry.domain): entry.version for entry in imports}


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


class _Lifter:
    """Lifts one scope: the root graph with all nested in it, or a function's body."""

    def __init__(self, opsets: Mapping[str, int], files: DataFiles, ordered: bool, all_constant: bool) -> None:
        self.opsets, self.files, self.ordered, self.all_constant = opsets, files, ordered, all_constant
        self.names: dict[str, Value] = {}  # the value of each name at the current node
        self.origins: dict[str, int] = {}
        self.pinned: set[str] = set()
        self.lent: Mapping[str, Array] = {}
        self.count = 0

    # -- graphs

    def graph(self, proto: onnx.GraphProto, place: str) -> Graph:
        graph = Graph(proto.name)
        scope = _Scope(self.names, place)
        declared = {value.name: value for value in proto.value_info}
        inputs = self._inputs(proto, graph, scope, place)
        pinned = self._initializers(proto, inputs, scope, place, declared)
        self._nodes(proto.node, graph, scope, declared, place)
        self._outputs(proto, graph, place)
        graph.doc = proto.doc_string
        graph.metadata = {entry.key: entry.value for entry in proto.metadata_props}
        annotations = tuple(proto.quantization_annotation)
        types = {v.name: v.type for v in (*proto.input, *proto.output) if _denotes(v.type)}
        if annotations or pinned or types:
            graph.raw = GraphExtras(annotations, pinned, types)
        scope.leave()
        return graph

    def function(self, proto: onnx.FunctionProto, place: str) -> Graph:
        graph = Graph(proto.name)
        scope = _Scope(self.names, place)
        declared = {value.name: value for value in proto.value_info}
        for name in proto.input:
            value = graph.add_input(Value(None, name))
            scope.define(name, value)
            self._declare(value, declared, place, trusted=True)
        self._nodes(proto.node, graph, scope, declared, place)
        results = [self._read(name, f"{place} output") for name in proto.output]
        graph.set_outputs(results, [Port(name) for name in proto.output])
        scope.leave()
        return graph

    def _inputs(self, proto: onnx.GraphProto, graph: Graph, scope: _Scope, place: str) -> dict[str, Value]:
        constant = {t.name for t in proto.initializer} if self.all_constant else ()
        values = {}
        for info in proto.input:
            if info.name in constant:
                continue
            value = Value(read_type(info.type, f"{place} input {info.name!r}"), info.name)
            _describe(value, info)
            graph.add_input(value)
            scope.define(info.name, value)
            values[info.name] = value
        return values

    def _initializers(
        self, proto: onnx.GraphProto, inputs: Mapping[str, Value], scope: _Scope, place: str,
        declared: Mapping[str, onnx.ValueInfoProto],
    ) -> dict[str, Constant]:  # fmt: skip
        wanted = set(self.pinned)
        for annotation in proto.quantization_annotation:
            wanted.update(entry.value for entry in annotation.quant_parameter_tensor_names)
        pinned: dict[str, Constant] = {}
        lent = self.lent if place == _ROOT else {}
        constants = [
            (t.name, read_constant(t, self.files, f"initializer {t.name!r}", lent.get(t.name)))
            for t in proto.initializer
        ]
        for sparse in proto.sparse_initializer:
            name = sparse.values.name
            constants.append((name, read_sparse(sparse, self.files, f"sparse initializer {name!r}")))
        defaults = set()
        for name, constant in constants:
            if name in wanted:
                pinned[name] = constant
            value = inputs.get(name)
            if value is not None and name not in defaults:
                value.default = constant
                defaults.add(name)
                continue
            value = Value(name=name, constant=constant)
            if name in declared:
                _describe(value, declared[name])
            scope.define(name, value)
        return pinned

    def _outputs(self, proto: onnx.GraphProto, graph: Graph, place: str) -> None:
        values, ports = [], []
        for info in proto.output:
            values.append(self._read(info.name, f"{place} output"))
            metadata = {entry.key: entry.value for entry in info.metadata_props}
            ports.append(
                Port(info.name, read_type(info.type, f"{place} output {info.name!r}"), info.doc_string, metadata)
            )
        graph.set_outputs(values, ports)
        for value, port in zip(values, ports):
            if value.type is None and value.producer is not None and self._is_foreign(value.producer):
                value.type = port.type

    def _read(self, name: str, place: str) -> Value:
        value = self.names.get(name)
        if value is None:
            if self.ordered:
                raise _Unsorted
            raise ModelError(f"{place} {name!r} is neither an input, an initializer nor the output of a node")
        return value

    # -- nodes

    def _nodes(
        self, protos: Sequence[onnx.NodeProto], graph: Graph, scope: _Scope,
        declared: Mapping[str, onnx.ValueInfoProto], place: str,
    ) -> None:  # fmt: skip
        names = self.names
        for i, proto in enumerate(protos if self.ordered else in_order(protos, place)):
            op_type, domain = proto.op_type, proto.domain
            if domain == "ai.onnx":
                domain = ""
            if op_type == "Constant" and not domain and self._constant(proto, scope, i, declared):
                continue
            inputs: list[Value | None] = []
            for name in proto.input:
                value = names.get(name) if name else None
                if name and value is None:
                    value = self._read(name, f"{node_place(proto, i)} input")
                inputs.append(value)
            outputs = [Value(None, name) for name in proto.output]
            node = self._node(proto, op_type, domain, inputs, outputs, i)
            for value in outputs:
                if value.name:
                    scope.define(value.name, value)
            if declared:
                foreign = self._is_foreign(node)
                for value in outputs:
                    self._declare(value, declared, place, foreign)
            graph.append(node)

    def _node(
        self, proto: onnx.NodeProto, op_type: str, domain: str, inputs: list[Value | None], outputs: list[Value], i: int
    ) -> Node:
        version = self.opsets.get(domain)
        if version is None:
            raise ModelError(f"{node_place(proto, i)}: no opset of domain {domain or 'ai.onnx'!r} is imported")
        op = f"{domain}::{op_type}" if domain else op_type
        attrs: dict[str, Any] = {}
        docs: dict[str, str] = {}
        for attribute in proto.attribute:
            name = attribute.name
            if name in attrs:
                raise ModelError(f"{node_place(proto, i)}: attribute {name!r} is there twice")
            attrs[name] = read_attribute(
                attribute, op, version, self.files, f"{op_type} {proto.name!r}",
                lambda g: self.graph(g, f"graph {g.name!r} of {node_place(proto, i)}"),
            )  # fmt: skip
            if attribute.doc_string and not isinstance(attrs[name], Opaque):
                docs[name] = attribute.doc_string
        node = Node(op, inputs, attrs, outputs, name=proto.name, overload=proto.overload)
        node.doc = proto.doc_string
        if proto.metadata_props:
            node.metadata = {entry.key: entry.value for entry in proto.metadata_props}
        devices = tuple(proto.device_configurations)
        if devices or docs or "::" in op_type:
            node.raw = NodeExtras((domain, op_type) if "::" in op_type else None, docs, devices)
        node.origins = (self._origin(proto.name or f"{op_type}_{self.count}"),)
        self.count += 1
        return node

    def _origin(self, name: str) -> str:
        n = self.origins.get(name)
        self.origins[name] = 0 if n is None else n + 1
        if n is None:
            return name
        return self._origin(f"{name}_{n + 1}")

    def _constant(
        self, proto: onnx.NodeProto, scope: _Scope, i: int, declared: Mapping[str, onnx.ValueInfoProto]
    ) -> bool:
        """Lift a Constant node as a constant; False if it must stay a node."""
        if len(proto.attribute) != 1 or len(proto.output) != 1 or not proto.output[0] or proto.device_configurations:
            return False
        attribute = proto.attribute[0]
        constant = None if attribute.ref_attr_name else _constant_of(attribute, self.files, node_place(proto, i))
        if constant is None:
            return False
        name = proto.output[0]
        value = Value(name=name, constant=constant)
        value.doc = proto.doc_string
        if proto.metadata_props:
            value.metadata = {entry.key: entry.value for entry in proto.metadata_props}
        if name in declared:
            _describe(value, declared[name])
        scope.define(name, value)
        return True

    def _is_foreign(self, node: Node) -> bool:
        """Whether ONNX has no schema of the operator, so that only the file declares the types of its outputs."""
        return schema_of(node.op, self.opsets.get(node.domain, 0)) is None

    def _declare(self, value: Value, declared: Mapping[str, onnx.ValueInfoProto], place: str, trusted: bool) -> None:
        info = declared.get(value.name) if value.name else None
        if info is None:
            return
        _describe(value, info)
        if trusted:
            value.type = read_type(info.type, f"{place} value {info.name!r}")


class _Scope:
    """The names that one graph defines; leaving it restores the outer values of these names."""

    __slots__ = ("before", "names", "place")

    def __init__(self, names: dict[str, Value], place: str) -> None:
        self.names, self.place = names, place
        self.before: dict[str, Value | None] = {}

    def define(self, name: str, value: Value) -> None:
        if name in self.before:
            raise ModelError(f"{self.place} defines {name!r} twice; each value has one definition (SSA)")
        self.before[name] = self.names.get(name)
        self.names[name] = value

    def leave(self) -> None:
        for name, value in self.before.items():
            if value is None:
                del self.names[name]
            else:
                self.names[name] = value


def _constant_of(attribute: onnx.AttributeProto, files: DataFiles, place: str) -> Constant | None:
    import numpy as np

    name, kind = attribute.name, attribute.type
    if name == "value" and (kind == onnx.AttributeProto.TENSOR or attribute.HasField("t")):
        return read_constant(attribute.t, files, place)
    if name == "value_float" and kind == onnx.AttributeProto.FLOAT:
        return Constant.of(np.array(attribute.f, np.float32))
    if name == "value_int" and kind == onnx.AttributeProto.INT:
        return Constant.of(np.array(attribute.i, np.int64))
    if name == "value_floats" and kind == onnx.AttributeProto.FLOATS:
        return Constant.of(np.array(attribute.floats, np.float32))
    if name == "value_ints" and kind == onnx.AttributeProto.INTS:
        return Constant.of(np.array(attribute.ints, np.int64))
    if name == "value_string" and kind == onnx.AttributeProto.STRING:
        return _string_constant([attribute.s], ())
    if name == "value_strings" and kind == onnx.AttributeProto.STRINGS:
        return _string_constant(list(attribute.strings), (len(attribute.strings),))
    return None


def _string_constant(values: list[bytes], shape: tuple[int, ...]) -> Constant:
    proto = onnx.TensorProto(dims=shape, data_type=onnx.TensorProto.STRING, string_data=values)
    return read_constant(proto, DataFiles(), "Constant")


def _describe(value: Value, info: onnx.ValueInfoProto) -> None:
    if info.doc_string:
        value.doc = info.doc_string
    if info.metadata_props:
        value.metadata = {entry.key: entry.value for entry in info.metadata_props}


def read_type(proto: onnx.TypeProto, place: str) -> Type | None:
    """The type a `TypeProto` describes; ModelError where it names an element type that ONNX does not define."""
    try:
        return type_of(proto)
    except ValueError:
        raise ModelError(f"{place}: element type {proto.tensor_type.elem_type} is none that ONNX defines") from None


def _denotes(proto: onnx.TypeProto) -> bool:
    """Whether the proto has more of a type than the IR keeps: a denotation, or a spelling of an unknown size."""
    if proto.denotation:
        return True
    return any(d.denotation or d.dim_value < 0 or d.dim_param == "?" for d in proto.tensor_type.shape.dim)
