"""Structural equality: two models whose results are the same expressions of inputs and weights are equal.

Every value of both models gets the number of its expression: operator, version, attributes, and the numbers of its
operands. Constants are numbered by content, Identity and Dropout outside of training by their operand. Names, order,
repeated nodes and unused nodes make no difference; everything else does. (Value numbering: Alpern, Wegman and Zadeck,
"Detecting equality of variables in programs", POPL 1988.)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx

from ..onnx_io.parts.order import in_order
from .runnable import RunnableModel
from .ties import RANDOM

_DOMAINS = {"ai.onnx": ""}
_DROPOUT_INFERS, _DROPOUT_TRAINS = 7, 12
"""Versions of Dropout: from the first it has no attribute `is_test`, from the second an input `training_mode`
(onnx/docs/Changelog.md)."""


def same_structure(a: RunnableModel, b: RunnableModel) -> bool:
    """Whether each output of `b` is the same expression as the output of that name in `a`; linear in the nodes.

    Lent weights of both models must share one `WeightPool`, which keeps one array for equal weights.
    """
    if {p.name for p in a.inputs} != {p.name for p in b.inputs}:
        return False
    numbers: dict[Hashable, int] = {}
    return _Numbering(a, numbers).outputs() == _Numbering(b, numbers).outputs()


class _Numbering:
    """Numbers the values of one model; `numbers`, by expression, are shared with the model it is compared with."""

    def __init__(self, model: RunnableModel, numbers: dict[Hashable, int]) -> None:
        self.proto, self.lent, self.numbers = model.proto, model.lent, numbers
        self.functions = {(_domain(f.domain), f.name, f.overload): f for f in model.proto.functions}
        self.bodies: dict[tuple[str, str, str], int] = {}

    def outputs(self) -> dict[str, int]:
        """The number of each output of the model."""
        graph = self.proto.graph
        versions = _versions(self.proto.opset_import)
        known: dict[str, int] = {}
        self._constants(graph, known)
        for port in graph.input:
            overridden = known.get(port.name)  # an input with a default: the caller may feed another value
            known[port.name] = self._number(("input", port.name, _plain(port.type), overridden))
        self._nodes(graph.node, known, versions, 1)
        return {port.name: known[port.name] for port in graph.output}

    def _number(self, key: Hashable) -> int:
        return self.numbers.setdefault(key, len(self.numbers))

    def _constants(self, graph: onnx.GraphProto, known: dict[str, int]) -> None:
        for tensor in graph.initializer:
            array = self.lent.get(tensor.name)
            # The pool keeps one array for equal weights as long as the models live: its address identifies the content.
            known[tensor.name] = self._tensor(tensor) if array is None else self._number(("lent", id(array)))
        for sparse in graph.sparse_initializer:
            copy = onnx.SparseTensorProto()
            copy.CopyFrom(sparse)
            copy.values.ClearField("name")
            known[sparse.values.name] = self._number(("sparse", _plain(copy)))

    def _tensor(self, tensor: onnx.TensorProto) -> int:
        shape = tuple(tensor.dims)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = tuple(sorted((e.key, e.value) for e in tensor.external_data if e.key != "checksum"))
            return self._number(("external", tensor.data_type, shape, entries))
        if tensor.data_type == onnx.TensorProto.STRING:
            return self._number(("strings", shape, tuple(tensor.string_data)))
        data = tensor.raw_data if tensor.HasField("raw_data") else onnx.numpy_helper.to_array(tensor).tobytes()
        return self._number(("tensor", tensor.data_type, shape, data))

    def _nodes(
        self, nodes: Iterable[onnx.NodeProto], known: dict[str, int], versions: Mapping[str, int], depth: int
    ) -> None:
        for node in in_order(nodes, "a graph"):  # that of a file need not be one in which nodes can run
            if (same := self._operand_given_back(node, known, versions)) is not None:
                known[node.output[0]] = same
            elif node.op_type == "Constant" and not node.domain and (tensor := _constant(node)) is not None:
                known[node.output[0]] = self._tensor(tensor)
                continue
            expression = self._expression(node, known, versions, depth)
            for place, name in enumerate(node.output):
                if name and not (same is not None and place == 0):
                    known[name] = self._number((expression, place))

    def _operand_given_back(
        self, node: onnx.NodeProto, known: Mapping[str, int], versions: Mapping[str, int]
    ) -> int | None:
        """The number of the operand that a node returns unchanged as its first output; None for other nodes."""
        if _domain(node.domain) or (node.op_type not in ("Identity", "Dropout")) or not node.output[0]:
            return None
        version = versions.get("", 0)
        if node.op_type == "Dropout" and version < _DROPOUT_INFERS:
            return None
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] and version >= _DROPOUT_TRAINS:
            off = self._number(("tensor", int(onnx.TensorProto.BOOL), (), b"\0"))
            if known.get(node.input[2]) != off:
                return None
        return known.get(node.input[0])

    def _expression(self, node: onnx.NodeProto, known: dict[str, int], versions: Mapping[str, int], depth: int) -> int:
        domain = _domain(node.domain)
        operands = [known[name] if name else None for name in node.input]
        while operands and operands[-1] is None:
            operands.pop()
        attributes = tuple(sorted(self._attribute(a, known, versions, depth) for a in node.attribute))
        called = (domain, node.op_type, node.overload)
        body = self._body(called) if called in self.functions else versions.get(domain)
        drawn = tuple(node.output) if node.op_type in RANDOM or node.op_type == "Dropout" else ()
        # The number of outputs is a part: Split divides by it, BatchNormalization trains where it has more than one.
        return self._number((*called, body, tuple(operands), attributes, len(node.output), drawn))

    def _attribute(
        self, attribute: onnx.AttributeProto, known: dict[str, int], versions: Mapping[str, int], depth: int
    ) -> tuple[str, Any]:
        kinds = onnx.AttributeProto
        if attribute.type == kinds.GRAPH:
            return attribute.name, f"graph {self._graph(attribute.g, known, versions, depth)}".encode()
        if attribute.type == kinds.GRAPHS:
            numbers = [self._graph(g, known, versions, depth) for g in attribute.graphs]
            return attribute.name, f"graphs {numbers}".encode()
        if attribute.type == kinds.TENSOR and not attribute.ref_attr_name:
            return attribute.name, f"tensor {self._tensor(attribute.t)}".encode()
        if not attribute.doc_string:
            return attribute.name, _plain(attribute)
        copy = onnx.AttributeProto()
        copy.CopyFrom(attribute)
        copy.ClearField("doc_string")
        return attribute.name, _plain(copy)

    def _graph(self, graph: onnx.GraphProto, outer: dict[str, int], versions: Mapping[str, int], depth: int) -> int:
        """A nested graph as a function of its arguments and captures."""
        known = dict(outer)
        self._constants(graph, known)
        for place, port in enumerate(graph.input):
            known[port.name] = self._number(("argument", depth, place, known.get(port.name, -1)))
        self._nodes(graph.node, known, versions, depth + 1)
        return self._number(("graph", len(graph.input), tuple(known[port.name] for port in graph.output)))

    def _body(self, called: tuple[str, str, str]) -> int:
        """A function of the model, as an expression of its arguments."""
        if called not in self.bodies:
            function = self.functions[called]
            self.bodies[called] = -1  # a recursive function is invalid
            known = {name: self._number(("argument", 0, place)) for place, name in enumerate(function.input)}
            self._nodes(function.node, known, _versions(function.opset_import), 1)
            defaults = tuple(sorted(_plain(a) for a in function.attribute_proto))
            results = tuple(known[name] for name in function.output)
            self.bodies[called] = self._number(("function", len(function.input), defaults, results))
        return self.bodies[called]


def _domain(name: str) -> str:
    return _DOMAINS.get(name, name)


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {_domain(entry.domain): entry.version for entry in imports}


def _plain(message: Any) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node as a tensor; None for a sparse one, and for one that a function's caller sets."""
    attribute = node.attribute[0]
    if attribute.ref_attr_name or len(node.attribute) != 1:
        return None
    if attribute.name == "value":
        tensor: onnx.TensorProto = attribute.t
        return tensor
    value: Any = onnx.helper.get_attribute_value(attribute)
    if attribute.name in ("value_float", "value_floats"):
        return onnx.numpy_helper.from_array(np.asarray(value, np.float32))
    if attribute.name in ("value_int", "value_ints"):
        return onnx.numpy_helper.from_array(np.asarray(value, np.int64))
    if attribute.name in ("value_string", "value_strings"):
        strings = [value] if isinstance(value, bytes) else list(value)
        dims = [] if attribute.name == "value_string" else [len(strings)]
        return onnx.TensorProto(data_type=onnx.TensorProto.STRING, dims=dims, string_data=strings)
    return None
