"""Reverse mode: append the nodes that compute gradients to the differentiated graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import Declined, ModelError
from ..ir import Node, TensorType, Value, captures, refine
from .call import Call
from .rules import CONSTANT, RULES
from .tensor import Tensor, Writer


def gradients(writer: Writer, cotangents: Mapping[Value, Tensor], wrt: Sequence[Value]) -> list[Tensor | None]:
    """Vector-Jacobian products: Σ over outputs y of ȳ ∂y/∂v for each v of `wrt`, None where no y depends on v.

    writer: appends to the graph that defines the values. cotangents: ȳ by output y, in its shape. wrt: inputs,
    constants or intermediate values of that graph; constants must be used in it. Existing nodes are not edited.

    ModelError, naming node and operator, where a node between `wrt` and the outputs has no gradient.
    """
    nodes = writer.graph.snapshot()
    active = dependents(nodes, wrt)
    found: dict[Value, Tensor] = {}
    for value, g in cotangents.items():
        if value in active:
            _accumulate(found, value, g)
    for node in reversed(nodes):
        given = tuple(found.get(value) for value in node.outputs)
        wanted = frozenset(slot for slot, v in enumerate(node.inputs) if v is not None and v in active)
        inner = any(v in active for v in captures(node)) if node.subgraphs else False
        if not (wanted or inner) or not any(g is not None for g in given) or node.op in CONSTANT:
            continue
        for value, g in _differentiate(Call(node, writer, given, wanted, gradients, active)).items():
            _accumulate(found, value, g)
    return [found.get(value) for value in wrt]


def _differentiate(call: Call) -> dict[Value, Tensor]:
    """The cotangents of a node's operands, and of the values that its nested graphs capture."""
    node = call.node
    call.writer.origins = node.origins
    out: dict[Value, Tensor] = {}
    try:
        rule = RULES.get(node.op)
        if rule is None:
            raise Declined("the operator has no gradient rule")
        for slot, g in rule(call).items():
            value = node.input(slot)
            if value is not None and slot in call.wanted:
                _accumulate(out, value, g)
        for value, g in call.captured.items():
            _accumulate(out, value, g)
    except Declined as declined:
        raise ModelError(f"no gradient of {describe(node)}: {declined.reason}") from declined
    finally:
        call.writer.origins = ()
    return out


def describe(node: Node) -> str:
    """A node's name in messages: its operator with its name, or with its output's name."""
    name = node.name or (node.outputs[0].name if node.outputs else "")
    return f"{node.op} {name!r}" if name else node.op


def _accumulate(found: dict[Value, Tensor], value: Value, g: Tensor) -> None:
    if g.value.producer is not None and value.type is not None and g.value.type is not None:
        g.value.type = refine(g.value.type, value.type)  # a cotangent has the sizes of its value
    known = found.get(value)
    found[value] = g if known is None else known + g


def dependents(nodes: Sequence[Node], wrt: Sequence[Value]) -> set[Value]:
    """The values that depend differentiably on `wrt`: floats, codes of fake quantization, and moved elements of
    these."""
    active = set(wrt)
    for node in nodes:
        if node.op in CONSTANT:
            continue
        read = [v for v in node.inputs if v is not None and v in active]
        if not read and not (node.subgraphs and any(v in active for v in captures(node))):
            continue
        codes = node.op == "QuantizeLinear" or any(not _is_float(v) for v in read)
        active.update(v for v in node.outputs if _is_float(v) or _is_container(v) or (codes and v.index == 0))
    return active


def _is_container(value: Value) -> bool:
    """Whether a value is a sequence, an optional or untyped: it may hold floats, so it is never skipped silently."""
    return not isinstance(value.type, TensorType)


def _is_float(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype.is_float
