"""Public entry points of differentiation: from an ONNX model to a model that also returns gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..arguments import check_arguments
from ..errors import OptionError
from ..ir import Graph, Model, Node, Port, TensorType, Value
from ..onnx_io import to_proto
from .prepare import prepare
from .reverse import gradients
from .tensor import Tensor, Writer

if TYPE_CHECKING:
    import onnx

    from ..onnx_io.source import ModelSource


def gradient_model(
    model: ModelSource | Model, wrt: Sequence[str] | None = None, *, loss: str | None = None,
    outputs: Sequence[str] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    """A model that returns the outputs of `model` and, as `<name>.gradient`, the gradient for each name of `wrt`.

    wrt: float inputs or initializers, by default all float inputs. With `loss`, the name of an output, gradients are
    those of the sum of its elements. Without, they are vector-Jacobian products Σ ȳ ∂y/∂v: for each of `outputs`, by
    default every float output, the model has a further input `<output>.cotangent` for ȳ, in the output's shape.

    The result runs in onnxruntime: ONNX's own operators at opset 18 or later. Sizes may be unknown.

    OptionError for names that the model lacks; ModelError, naming node and operator, where a node between `wrt` and the
    outputs has no gradient.
    """
    check_arguments(gradient_model, locals())
    ready = prepare(model)
    graph = ready.graph
    named = named_values(ready)
    chosen = [v.name for v in graph.inputs if is_float(v)] if wrt is None else list(wrt)
    values = [_visible(graph, look_up(named, name, "input or initializer")) for name in chosen]
    results = {port.name: value for port, value in zip(graph.ports, graph.outputs)}
    seeded = [loss] if loss is not None else list(outputs or [n for n, v in results.items() if is_float(v)])
    writer = Writer(graph)
    cotangents: dict[Value, Tensor] = {}
    for name in seeded:
        y = look_up(results, name, "output")
        if loss is not None:
            seed = Tensor(writer, y).filled(1.0)
        else:
            seed = Tensor(writer, graph.add_input(Value(y.type, f"{name}.cotangent")))
        cotangents[y] = cotangents[y] + seed if y in cotangents else seed
    found = gradients(writer, cotangents, values)
    kept = [g if g is not None else Tensor(writer, v).zeros() for g, v in zip(found, values)]
    add_outputs(ready, {f"{name}.gradient": g for name, g in zip(chosen, kept)})
    return to_proto(ready)


def _visible(graph: Graph, value: Value) -> Value:
    """The value in a form visible to nested graphs: a constant that these read goes through an Identity before them."""
    if value.constant is None or all(use.node.graph is graph for use in value.uses):
        return value
    front = Node("Identity", [], None, [value.type])
    graph.insert_before(next(iter(graph)), front)
    graph.replace_uses(value, front.outputs[0])
    graph.set_inputs(front, [value])
    return front.outputs[0]


def is_float(value: Value) -> bool:
    """Whether a value is a tensor of floats."""
    return isinstance(value.type, TensorType) and value.type.dtype.is_float


def named_values(model: Model) -> dict[str, Value]:
    """The inputs and the constants of a model by name."""
    constants = {
        v.name: v for node in model.graph.walk() for v in node.inputs if v is not None and v.constant is not None
    }
    return {**constants, **{v.name: v for v in model.graph.inputs}}


def look_up(named: dict[str, Value], name: str, what: str) -> Value:
    """The float value of a name; OptionError if there is none."""
    if name not in named:
        raise OptionError(f"the model has no {what} {name!r}; it has {', '.join(sorted(n for n in named if n)[:8])}")
    if not is_float(named[name]):
        raise OptionError(f"{what} {name!r} is {named[name].type}, and only floats have gradients")
    return named[name]


def add_outputs(model: Model, more: dict[str, Tensor]) -> None:
    """Add outputs to a model under the given names, each a distinct value."""
    graph = model.graph
    values, ports = list(graph.outputs), list(graph.ports)
    for name, t in more.items():
        own = t if t.value.producer is not None and t.value not in values else t.writer.node("Identity", t)
        own.value.name = name
        values.append(own.value)
        ports.append(Port(name, own.value.type))
    graph.set_outputs(values, ports)
