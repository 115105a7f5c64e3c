"""An index of an ONNX protobuf by name: nodes, nested ones included, producers, consumers, constants."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import prod

import numpy as np
import onnx

from ..ir import Array
from ..onnx_io.parts.order import reads
from ..ops import nested_graphs, walk_protos

SMALL = 4096
"""Elements of the largest constant whose values are read: shapes, bounds and scales, but not weights."""


def walk_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph, of graphs nested in it and of the model's functions."""
    yield from walk_protos(proto.graph.node)
    for function in proto.functions:
        yield from walk_protos(function.node)


def keep_read(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Remove results that are not among `names`, and nodes and weights that only such results need."""
    read = {*names, *(v.name for v in graph.input)}  # inputs keep their defaults
    for i in reversed(range(len(graph.node))):
        node = graph.node[i]
        if read.isdisjoint(node.output):
            del graph.node[i]
            continue
        read |= reads(node)
    for held, kept in ((graph.output, names), (graph.initializer, read)):
        for i in reversed(range(len(held))):
            if held[i].name not in kept:
                del held[i]


class GraphIndex:
    """Producers, consumers and constants of a model by name, nested graphs included, functions inlined."""

    def __init__(self, model: onnx.ModelProto) -> None:
        proto = without_weights(model) if model.functions else model
        self.consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        self.producer: dict[str, onnx.NodeProto] = {}
        self.constants: dict[str, onnx.TensorProto] = {}
        self.rename: dict[str, list[str]] = {}
        self.order: list[onnx.NodeProto] = list(proto.graph.node)
        self._add_graph(proto.graph)

    def _add_graph(self, graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            self.constants.setdefault(tensor.name, tensor)
        for node in graph.node:
            for slot, name in enumerate(node.input):
                if name:
                    self.consumers.setdefault(name, []).append((node, slot))
            for name in node.output:
                self.producer.setdefault(name, node)
            if node.op_type == "Constant":
                for attr in node.attribute:
                    if attr.name == "value":
                        self.constants.setdefault(node.output[0], attr.t)
                    elif attr.name in ("value_int", "value_ints", "value_float", "value_floats"):
                        self.constants.setdefault(node.output[0], _tensor_of(attr))
            for nested in nested_graphs(node):
                self._bind(node, nested)
                self._add_graph(nested)

    def _bind(self, node: onnx.NodeProto, nested: onnx.GraphProto) -> None:
        """Bind the inputs of Loop and Scan to their body's inputs, and every body's results to the node's outputs."""
        operands = list(node.input)
        if node.op_type == "Loop":
            operands = ["", *operands[1:]]
        for outer, inner in zip(operands, nested.input):
            if outer:
                self.rename.setdefault(outer, []).append(inner.name)
        results = [o.name for o in nested.output]
        if node.op_type == "Loop":
            results = results[1:]
        for inner_name, outer in zip(results, node.output):
            if outer:
                self.rename.setdefault(inner_name, []).append(outer)

    def array(self, name: str) -> Array | None:
        """The values of a small constant; None for a large or external constant and for a computed value."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL or prod(tensor.dims) > SMALL:
            return None
        values: Array = onnx.numpy_helper.to_array(tensor)
        return values

    def table_dims(self, name: str) -> tuple[int, ...] | None:
        """The shape of a constant, looked up through operators that keep it."""
        for _ in range(8):
            tensor = self.constants.get(name)
            if tensor is not None:
                return tuple(tensor.dims)
            node = self.producer.get(name)
            if node is None or node.op_type not in ("Identity", "Cast", "DequantizeLinear", "QuantizeLinear", "Mul"):
                return None
            name = node.input[0]
        return None

    def origin(self, name: str, inputs: frozenset[str]) -> str | None:
        """The model input upstream of a value, followed along each node's first input that is not constant."""
        seen = set()
        while name not in inputs:
            node = self.producer.get(name)
            if node is None or name in seen:
                return None
            seen.add(name)
            live = [n for n in node.input if n and n not in self.constants]
            if not live:
                return None
            name = live[0]
        return name


def _tensor_of(attr: onnx.AttributeProto) -> onnx.TensorProto:
    value = onnx.helper.get_attribute_value(attr)
    dtype = np.int64 if attr.name.startswith("value_int") else np.float32
    return onnx.numpy_helper.from_array(np.asarray(value, dtype))


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with functions inlined and the values of large initializers left out."""
    import onnx.inliner

    bare = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    bare.graph.name = proto.graph.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(bare.graph, field).extend(getattr(proto.graph, field))
    for tensor in proto.graph.initializer:
        if prod(tensor.dims) > SMALL:
            bare.graph.initializer.add(
                name=tensor.name, dims=tensor.dims, data_type=tensor.data_type,
                data_location=onnx.TensorProto.EXTERNAL,
            )  # fmt: skip
        else:
            bare.graph.initializer.add().CopyFrom(tensor)
    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(bare) if proto.functions else bare
    return inlined
