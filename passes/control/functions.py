"""Calls of the model's functions are replaced by their bodies."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import Constant, Function, FunctionId, Graph, Model, Node, Opaque, Value, model_of
from ...ops import schema_of
from ...pipeline.passes import graph_pass
from ...rewrite import Context
from .splice import splice

_DEPTH = 32  # the most rounds, one per level of nested calls; ONNX forbids recursion


@graph_pass("inline-functions")
def inline_functions(graph: Graph, context: Context) -> int:
    """f(x) where f(a) = g(a) is g(x); functions that are no longer called are removed."""
    model = model_of(graph)
    if model is None or not model.functions:
        return 0
    changes = 0
    for _ in range(_DEPTH):
        inlined = sum(_inline(model, node, context) for node in list(graph.walk()))
        changes += inlined
        if not inlined:
            break
    while unused := [key for key in model.functions if not _is_called(model, key)]:
        for key in unused:
            del model.functions[key]
    return changes


def _is_called(model: Model, key: FunctionId) -> bool:
    bodies = (model.graph, *(f.body.graph for f in model.functions.values()))
    return any(_key(node) == key for graph in bodies for node in graph.walk())


def _key(node: Node) -> FunctionId:
    return FunctionId(node.domain, node.op_type, node.overload)


def _inline(model: Model, node: Node, context: Context) -> bool:
    function, graph = model.functions.get(_key(node)), node.graph
    if function is None or graph is None or not _fits(model, function, node):
        return False
    defaults = {} if function.raw is None else {p.name: p for p in function.raw.defaults}
    attributes = _Attributes(node, defaults)
    body = function.body.graph
    if not all(attributes.can_resolve(inner) for inner in body.walk()) or not context.commit("inline-function", node):
        return False
    for domain, version in function.body.opsets.items():
        model.opsets.setdefault(domain, version)

    def adapt(copy: Node, values: dict[Value, Value]) -> None:
        copy.origins, copy.made_by = node.origins, "inline-functions"
        for inner in (copy, *(n for nested in copy.subgraphs for n in nested.walk())):
            attributes.resolve(graph, inner, values)

    splice(graph, node, body, node.inputs, adapt)
    return True


def _fits(model: Model, function: Function, node: Node) -> bool:
    """Every input is given, and no operator has another version in the model's opset than in the function's."""
    body = function.body
    missing = any(value is None for value in node.inputs) or len(node.inputs) != len(body.graph.inputs)
    if missing or len(node.outputs) > len(body.graph.outputs):
        return False
    return all(_means_the_same(model, body, inner) for inner in body.graph.walk())


def _means_the_same(model: Model, body: Model, node: Node) -> bool:
    here, there = body.opsets.get(node.domain), model.opsets.get(node.domain)
    if there is None or here == there or _key(node) in model.functions:
        return True
    first, second = schema_of(node.op, here or 0), schema_of(node.op, there)
    return first is not None and second is not None and first.since_version == second.since_version


class _Attributes:
    """The attributes of a function call, to which the body's nodes refer by name: from the call, or defaults."""

    def __init__(self, call: Node, defaults: dict[str, Any]) -> None:
        self.call, self.defaults = call, defaults

    def can_resolve(self, node: Node) -> bool:
        """Whether every attribute reference of the node can be resolved."""
        return all(self._value(v)[0] for v in node.attrs.values() if isinstance(v, Opaque))

    def _value(self, value: Opaque) -> tuple[bool, Any]:
        """Whether the value of a reference is known, and the value; None stands for an attribute that is not set."""
        name = getattr(value.raw, "ref_attr_name", "")
        if not name:
            return True, value
        if name in self.call.attrs:
            return True, self.call.attrs[name]
        default = self.defaults.get(name)
        return (True, None) if default is None else _plain(default)

    def resolve(self, graph: Graph, node: Node, values: dict[Value, Value]) -> None:
        """Replace a node's attribute references by values; a Constant node with a reference becomes a constant."""
        for name, value in list(node.attrs.items()):
            if isinstance(value, Opaque):
                graph.set_attr(node, name, self._value(value)[1])
        if node.op == "Constant" and len(node.attrs) == 1:
            constant = _constant(*next(iter(node.attrs.items())))
            owner = node.graph
            if constant is None or owner is None:
                return
            new = Value(constant=constant, name=node.output.name)
            for key in [key for key, value in values.items() if value is node.output]:
                values[key] = new
            owner.replace_uses(node.output, new)
            owner.erase(node)


def _plain(proto: Any) -> tuple[bool, Any]:
    """Whether an AttributeProto holds a number, a string, a tensor or a list of numbers, and that value."""
    import onnx

    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return True, value.decode()
    if isinstance(value, (int, float)):
        return True, value
    if isinstance(value, onnx.TensorProto):
        return True, Constant.of(onnx.numpy_helper.to_array(value))
    numbers = [*value] if not isinstance(value, onnx.GraphProto) else [None]
    plain = all(isinstance(v, (int, float)) for v in numbers)
    return plain, tuple(numbers) if plain else None


def _constant(name: str, value: Any) -> Constant | None:
    """The constant in an attribute of a Constant node; None for strings and sparse tensors."""
    if isinstance(value, Constant):
        return value
    dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    return Constant.of(np.array(value, dtype[name])) if name in dtype else None
