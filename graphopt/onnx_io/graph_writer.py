"""Writes graphs as protos: nodes, constants, results and their descriptions; assigns all names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from ..ir import Constant, FunctionId, Graph, IRError, Model, Node, Port, Type, Value
from ..ops import schema_of, type_of, type_proto
from .names import Names
from .parts.attributes import write_attribute
from .parts.extras import GraphExtras, ModelExtras, NodeExtras
from .parts.tensors import describe, external_source, write_tensor

_FIRST_WITH_CONSTANT_INITIALIZERS = 4  # the IR version from which initializers need not be inputs (IR.md)
SKELETON_ELEMENTS = 1024
"""Elements of the largest constant that a skeleton keeps: operands that shapes depend on are far smaller."""

Store = Callable[[onnx.TensorProto, Constant, str], None]
"""Fills the `TensorProto` of an initializer, from its constant and name."""


@dataclass(frozen=True, slots=True)
class Form:
    """Options of writing (skeleton and stores: see `Emitter`), and the functions of the model, which nodes may call."""

    skeleton: bool
    store: Store
    store_inside: Store
    functions: frozenset[FunctionId]


class GraphWriter:
    """Writes one namespace: the root graph with all graphs nested in it into `root`, or the body of a function."""

    def __init__(self, model: Model, form: Form, root: onnx.GraphProto | None = None) -> None:
        self.source, self.form, self.root_proto, self.in_function = model, form, root, root is None
        self.skeleton = form.skeleton
        self.names = Names(model.graph)
        self.opsets = model.opsets
        self.head: list[onnx.NodeProto] = []  # Constant nodes that precede all other nodes
        self.order: list[Value] = []  # constants in the order of their first use
        self.as_inputs: Mapping[str, int] = {}
        self.old = root is not None and is_old(model)
        if self.old:
            listed = model.raw.inputs if isinstance(model.raw, ModelExtras) else ()
            self.as_inputs = {name: i for i, name in enumerate(listed)}

    # -- graphs

    def root(self, proto: onnx.GraphProto) -> None:
        """Write the root graph, its constants as initializers in the order of their first use."""
        graph = self.source.graph
        inputs = [(value.name, value) for value in graph.inputs]
        body = self._body(graph, proto)
        for value in graph.inputs:
            if value.default is not None:
                self._initializer(proto, value.default, value.name)
        extras = graph.raw
        if isinstance(extras, GraphExtras) and not self.skeleton:
            self._annotations(extras, proto)
        for value in self.order:
            assert value.constant is not None
            self._root_constant(proto, value, value.constant, inputs)
        if self.as_inputs:
            place = self.as_inputs
            inputs.sort(key=lambda item: place.get(item[0], len(place)))
        for name, value in inputs:
            self._value_info(proto.input.add(), name, value, graph.raw)
        proto.node.extend(self.head)
        proto.node.extend(body)

    def function(self, proto: onnx.FunctionProto) -> None:
        """Write the body of a function, its constants as Constant nodes."""
        graph = self.source.graph
        proto.input.extend(value.name for value in graph.inputs)
        body: list[onnx.NodeProto] = []
        infos: list[onnx.ValueInfoProto] = []
        names = self._results(graph, body, infos)
        for value in self.order:
            assert value.constant is not None
            self.head.append(self._constant_node(value.constant, self.names.of[value], value))
        proto.node.extend(self.head)
        proto.node.extend(body)
        proto.output.extend(names)
        if self.source.ir_version >= 10 and not self.skeleton:
            for value in graph.inputs:
                if value.type is not None or value.doc or value.metadata:
                    self._value_info(proto.value_info.add(), value.name, value)
            proto.value_info.extend(infos)

    def nested(self, graph: Graph, proto: onnx.GraphProto) -> None:
        """Write a graph that is an attribute of a node, with the constants that only this graph reads."""
        for value in graph.inputs:
            self.names.define(value, value.name or "input")
        before = len(self.order)
        body = self._body(graph, proto)
        body[:0] = self._constants_inside(graph, proto, before)
        for value in graph.inputs:
            self._value_info(proto.input.add(), self.names.of[value], value, graph.raw)
            if value.default is not None:
                self._initializer(proto, value.default, self.names.of[value], self.form.store_inside)
        if isinstance(graph.raw, GraphExtras) and not self.skeleton:
            self._annotations(graph.raw, proto)
        proto.node.extend(body)

    def _body(self, graph: Graph, proto: onnx.GraphProto) -> list[onnx.NodeProto]:
        """Name, documentation, results and value_info of a graph; its nodes are returned."""
        proto.name = graph.name
        if graph.doc:
            proto.doc_string = graph.doc
        write_metadata(proto.metadata_props, graph.metadata)
        body: list[onnx.NodeProto] = []
        infos: list[onnx.ValueInfoProto] = []
        names = self._results(graph, body, infos)
        for name, port, value in zip(names, graph.ports, graph.outputs):
            self._result_info(proto.output.add(), name, port, value, graph)
        proto.value_info.extend(infos)
        return body

    def _results(self, graph: Graph, body: list[onnx.NodeProto], infos: list[onnx.ValueInfoProto]) -> list[str]:
        """Write the nodes of a graph, with copies of results that ONNX forbids a graph to return; returns the names."""
        root = graph is self.source.graph
        given: dict[Value, str] = {}  # results that are named by their port
        names: list[str] = []
        late: list[tuple[Value, str]] = []
        for value, port in zip(graph.outputs, graph.ports, strict=True):
            name = port.name
            if given.get(value) == name and root:
                names.append(name)  # the same result listed twice under one name
                continue
            if value in given or not self._is_own(value, graph, name, root):
                name = name if root else self.names.fresh(name or "output")
                late.append((value, name))
            elif value.owner is None and value not in self.names.of:
                if root:
                    self.names.settle(value, name)
                else:
                    name = self.names.define(value, name)
                if value.constant is not None:
                    self.order.append(value)
                given[value] = name
            else:
                name = given[value] = self.names.of[value]
            names.append(name)
        for node in graph.snapshot():
            body.append(self._node(node, infos))
        for value, name in late:
            body.append(self._copy(value, name))
        return names

    def _is_own(self, value: Value, graph: Graph, name: str, root: bool) -> bool:
        """Whether a graph may return a value directly, under a port's name."""
        if value.producer is not None:
            return value.producer.graph is graph
        if value.constant is not None:
            return root and not self.in_function and not self.old and value not in self.names.of
        return value.owner is graph and value.name == name and self.names.of.get(value) == value.name

    def _copy(self, value: Value, name: str) -> onnx.NodeProto:
        """A node that gives a result a name of its own: Constant for a constant without other users, else Identity."""
        constant = value.constant
        if constant is not None and value.has_one_use and external_source(constant) is None:
            return self._constant_node(constant, name, value)
        return onnx.NodeProto(op_type="Identity", input=[self._use(value)], output=[name])

    # -- nodes

    def _node(self, node: Node, infos: list[onnx.ValueInfoProto]) -> onnx.NodeProto:
        names = self.names
        of = names.of
        inputs = ["" if v is None else of.get(v) or self._use(v) for v in node.inputs]
        extras = node.raw if isinstance(node.raw, NodeExtras) else None
        domain, _, op_type = node.op.rpartition("::")
        if extras is not None and extras.operator is not None:
            domain, op_type = extras.operator
        version = self.opsets.get(domain, 0)
        proto = onnx.NodeProto(op_type=op_type, input=inputs)
        for key, value in node.attrs.items():
            attribute = proto.attribute.add()
            write_attribute(attribute, key, value, node.op, version, self.nested)
            if extras is not None and key in extras.docs:
                attribute.doc_string = extras.docs[key]
        outputs = [names.define(v) for v in node.outputs]
        if node.op == "Split":  # its results are not optional; onnxruntime crashes on one without a name
            outputs = [name or names.fresh("part", False) for name in outputs]
        if outputs and not any(outputs):  # a dead node that no pass has removed: one output at least must have a name
            outputs[0] = names.fresh(op_type.lower(), False)
        proto.output.extend(outputs)
        if domain:
            proto.domain = domain
        if node.name:
            proto.name = names.of_node(node)
        if node.overload:
            proto.overload = node.overload
        if self.skeleton:
            if schema_of(node.op, version) is None:
                self._infos(node, infos, True)
            return proto
        if node.doc:
            proto.doc_string = node.doc
        if node.metadata:
            write_metadata(proto.metadata_props, node.metadata)
        if extras is not None:
            self._devices(extras, proto)
        self._infos(node, infos, schema_of(node.op, version) is None)
        return proto

    def _infos(self, node: Node, infos: list[onnx.ValueInfoProto], foreign: bool) -> None:
        """Declare values whose types ONNX cannot infer, or with a doc string or metadata."""
        if foreign:
            foreign = FunctionId(node.domain, node.op_type, node.overload) not in self.form.functions
        for value in node.outputs:
            if (foreign and value.type is not None) or value.doc or value.metadata:
                name = self.names.of.get(value)
                if name and not value.is_result:
                    info = onnx.ValueInfoProto()
                    self._value_info(info, name, value, typed=foreign)
                    infos.append(info)

    def _use(self, value: Value) -> str:
        """The name by which a node reads a value; a constant is emitted at its first use."""
        known = self.names.of.get(value)
        if known is not None:
            return known
        if value.constant is None:
            raise IRError(f"value {value.name!r} is used where it is not defined")
        self.order.append(value)
        return self.names.define(value, value.name or "constant")

    def _devices(self, extras: NodeExtras, proto: onnx.NodeProto) -> None:
        for devices in extras.devices:
            proto.device_configurations.add().CopyFrom(devices)

    # -- constants

    def _root_constant(
        self, proto: onnx.GraphProto, value: Value, constant: Constant, inputs: list[tuple[str, Value]]
    ) -> None:
        name = self.names.of[value]
        if self.skeleton and constant.size > SKELETON_ELEMENTS:
            inputs.append((name, value))
            return
        if self.old and name not in self.as_inputs:
            self.head.append(self._constant_node(constant, name, value))
            return
        if self.old:
            inputs.append((name, value))
        elif value.doc or value.metadata:
            self._value_info(proto.value_info.add(), name, value)
        self._initializer(proto, constant, name)

    def _constants_inside(self, graph: Graph, proto: onnx.GraphProto, before: int) -> list[onnx.NodeProto]:
        """Write the constants after number `before` that only this graph reads; returns those that must be nodes.

        onnxruntime searches some operands, such as codes to dequantize, only in the graph of their reader.
        """
        nodes: list[onnx.NodeProto] = []
        if self.skeleton:
            return nodes
        met, self.order[before:] = self.order[before:], []
        for value in met:
            name, constant = self.names.of[value], value.constant
            assert constant is not None
            if name in self.as_inputs or not all(_is_inside(user, graph) for user in value.users):
                self.order.append(value)
            elif self.old or self.in_function:
                nodes.append(self._constant_node(constant, name, value))
            else:
                if value.doc or value.metadata:
                    self._value_info(proto.value_info.add(), name, value)
                self._initializer(proto, constant, name, self.form.store_inside)
        return nodes

    def _initializer(self, proto: onnx.GraphProto, constant: Constant, name: str, store: Store | None = None) -> None:
        if self.skeleton and constant.size > SKELETON_ELEMENTS:
            return
        write_initializer(proto, constant, name, store or self.form.store)

    def _constant_node(self, constant: Constant, name: str, value: Value) -> onnx.NodeProto:
        if self.skeleton and constant.size > SKELETON_ELEMENTS:
            return _placeholder(constant, name)
        node = onnx.NodeProto(op_type="Constant", output=[name])
        attribute = node.attribute.add()
        if isinstance(constant.source, onnx.SparseTensorProto):
            attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
            attribute.sparse_tensor.CopyFrom(constant.source)
        else:
            attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
            write_tensor(attribute.t, constant, "")
            attribute.t.ClearField("name")
        if value.doc:
            node.doc_string = value.doc
        if value.metadata:
            write_metadata(node.metadata_props, value.metadata)
        return node

    # -- descriptions

    def _annotations(self, extras: GraphExtras, proto: onnx.GraphProto) -> None:
        """Copy the quantization annotations, and write constants that only annotations name."""
        for name, constant in extras.pinned.items():
            if name not in self.names.of.values() and self.root_proto is not None:
                self.names.fresh(name)
                self._initializer(self.root_proto, constant, name)
        for annotation in extras.annotations:
            proto.quantization_annotation.add().CopyFrom(annotation)

    def _value_info(
        self, info: onnx.ValueInfoProto, name: str, value: Value, extras: object = None, typed: bool = True
    ) -> None:
        info.name = name
        if typed or value.type is not None:
            _write_type(info, name, value.type, None if self.skeleton else extras)
        if value.doc:
            info.doc_string = value.doc
        if value.metadata:
            write_metadata(info.metadata_props, value.metadata)

    def _result_info(self, info: onnx.ValueInfoProto, name: str, port: Port, value: Value, graph: Graph) -> None:
        """Describe a result. A type that the file did not declare is added at the root only: ONNX requires it."""
        info.name = name
        if self.skeleton:
            _write_type(info, name, value.type if value.producer is None else None, None)
        else:
            known = value.type if port.type is None and graph is self.source.graph else port.type
            _write_type(info, port.name, known, graph.raw)
        if port.doc:
            info.doc_string = port.doc
        write_metadata(info.metadata_props, port.metadata)


def is_old(model: Model) -> bool:
    """Whether the IR version of a model demands that its initializers are inputs."""
    return 0 < model.ir_version < _FIRST_WITH_CONSTANT_INITIALIZERS


def write_initializer(proto: onnx.GraphProto, constant: Constant, name: str, store: Store = write_tensor) -> None:
    """Add a constant to the initializers of a graph."""
    if isinstance(constant.source, onnx.SparseTensorProto):
        sparse = proto.sparse_initializer.add()
        sparse.CopyFrom(constant.source)
        sparse.values.name = name
    else:
        store(proto.initializer.add(), constant, name)


def _is_inside(node: Node, graph: Graph) -> bool:
    """Whether a node is in a graph or in one nested in it."""
    place = node.graph
    while place is not None and place is not graph:
        place = place.parent
    return place is graph


def _write_type(info: onnx.ValueInfoProto, name: str, type: Type | None, extras: object) -> None:
    if type is None:
        return
    declared = extras.types.get(name) if isinstance(extras, GraphExtras) else None
    if declared is not None and type_of(declared) == type:
        info.type.CopyFrom(declared)
    else:
        info.type.CopyFrom(type_proto(type))


def write_metadata(entries: Sequence[onnx.StringStringEntryProto], metadata: Mapping[str, str]) -> None:
    """Add `metadata` to the `metadata_props` of a proto."""
    for key, value in metadata.items():
        entries.add(key=key, value=value)  # type: ignore[attr-defined]


def _placeholder(constant: Constant, name: str) -> onnx.NodeProto:
    """A Constant node with the type and without the data of a constant."""
    node = onnx.NodeProto(op_type="Constant", output=[name])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    describe(attribute.t, constant)
    return node
