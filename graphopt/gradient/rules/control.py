"""If, Loop and Scan: their bodies are differentiated, and run again in reverse order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import Declined
from ...ir import DType, Graph, Node, Port, TensorType, Type, Value, captures, clone_node, refine
from ...ops import infer
from ..call import Call, Gradients, Rule
from ..tensor import Tensor, Writer


def branch(call: Call) -> Gradients:
    """y = a(v) where c, else b(v): dv = g ∂a/∂v where c, else g ∂b/∂v, for the values v that the branches read"""
    outer = _active_captures(call)
    graphs = {}
    for name in ("then_branch", "else_branch"):
        body: Graph = call.node.attrs[name]
        graph = _empty(call.writer, body.name)
        results = _copied(body, graph, {})
        writer = Writer(graph)
        seeds: dict[Value, Tensor] = {}
        for y, g in zip(results, call.cotangents):
            if g is not None:
                here = Tensor(writer, g.value)
                seeds[y] = seeds[y] + here if y in seeds else here
        found = call.gradients(writer, seeds, outer)
        _return(graph, [_known(writer, v, g) for v, g in zip(outer, found)])
        graphs[name] = graph
    made = _append(call, Node("If", [call.node.inputs[0]], graphs, [v.type for v in outer]))
    call.captured.update(zip(outer, made))
    return {}


def scan(call: Call) -> Gradients:
    """(s', y) = f(s, x) a step: from the last step to the first, (ds, dx) = (ds', g) ∂f/∂(s, x), and of values v that
    the body reads dv = Σ (ds', g) ∂f/∂v. The states s of each step are computed again, and kept"""
    node, body = call.node, call.node.attrs["body"]
    given = int(call.attr("num_scan_inputs"))
    count = len(node.inputs) - given
    results = len(node.outputs) - count
    if len(body.inputs) != len(node.inputs):
        raise Declined("the Scan of opset 8")
    axes = list(call.attr("scan_input_axes") or [0] * given)
    back = list(call.attr("scan_input_directions") or [0] * given)
    out_axes = list(call.attr("scan_output_axes") or [0] * results)
    out_back = list(call.attr("scan_output_directions") or [0] * results)
    kept = _empty(call.writer, "kept")
    mapping: dict[Value, Value] = {}
    kept_inputs = [_input(kept, v, mapping) for v in body.inputs]
    made = _copied(body, kept, mapping)
    writer = Writer(kept)
    _return(kept, [Tensor(writer, v) for v in (*made[:count], *kept_inputs[:count])])
    attrs = {
        "body": kept, "num_scan_inputs": given, "scan_input_axes": tuple(axes), "scan_input_directions": tuple(back),
    }  # fmt: skip
    types = [v.type for v in body.inputs[:count]]
    again = _append(call, Node("Scan", node.inputs, attrs, [*types, *(_stacked(t, 0) for t in types)]))
    slices = [(value, before, 0, 1) for value, before in zip(body.inputs, again[count:])]
    slices += [
        (value, Tensor(call.writer, x), axis, 1 - b)
        for value, x, axis, b in zip(body.inputs[count:], node.inputs[count:], axes, back)
        if x is not None
    ]
    cotangents = [
        (y, g, axis, 1 - b) for y, g, axis, b in zip(body.outputs[count:], call.cotangents[count:], out_axes, out_back)
    ]
    states = list(zip(body.inputs[:count], body.outputs[:count], call.cotangents[:count], node.outputs[:count]))
    wanted = [v for v, slot in zip(body.inputs[count:], range(count, len(node.inputs))) if slot in call.wanted]
    ds, dx = _backwards(call, body, states, slices, cotangents, wanted, {})
    found: Gradients = {slot: ds[v] for slot, v in enumerate(body.inputs[:count]) if v in ds}
    found.update({count + body.inputs[count:].index(v): g for v, g in dx.items()})
    return found


def loop(call: Call) -> Gradients:
    """(c', s', y) = f(i, c, s) a step: as of Scan, over as many steps as the condition allowed"""
    node, body = call.node, call.node.attrs["body"]
    count = len(node.inputs) - 2
    for v, after in zip(body.inputs[2:], body.outputs[1:]):
        if not isinstance(v.type, TensorType) or not isinstance(after.type, TensorType):
            raise Declined("a Loop that carries a sequence")
        if v.type.sizes is not None and after.type.sizes is not None and v.type.sizes != after.type.sizes:
            raise Declined("a Loop that carries a tensor whose shape changes")
    kept = _empty(call.writer, "kept")
    mapping: dict[Value, Value] = {}
    inputs = [_input(kept, v, mapping) for v in body.inputs]
    made = _copied(body, kept, mapping)
    writer = Writer(kept)
    _return(kept, [Tensor(writer, v) for v in (*made[: 1 + count], inputs[0], *inputs[2:])])
    types = [v.type for v in body.inputs[2:]]
    step = TensorType(DType.INT64, (None,))
    rows = [step, *(_stacked(t, 0) for t in types)]
    again = _append(call, Node("Loop", node.inputs, {"body": kept}, [*types, *rows]))[count:]
    slices = [(value, before, 0, 1) for value, before in zip((body.inputs[0], *body.inputs[2:]), again)]
    cotangents = [(y, g, 0, 1) for y, g in zip(body.outputs[1 + count :], call.cotangents[count:])]
    states = list(zip(body.inputs[2:], body.outputs[1 : 1 + count], call.cotangents[:count], node.outputs[:count]))
    true = call.writer.constant(True)
    ds, _ = _backwards(call, body, states, slices, cotangents, [], {body.inputs[1]: true.value})
    return {slot + 2: ds[v] for slot, v in enumerate(body.inputs[2:]) if v in ds}


State = tuple[Value, Value, Tensor | None, Value]
"""A state of a body: its value before and after a step, the cotangent of the final state, and the final state."""
Slice = tuple[Value, Tensor, int, int]
"""A value of a body, the tensor that it is a slice of in each step, the axis, and whether slices run in reverse."""


def _backwards(
    call: Call, body: Graph, states: Sequence[State], slices: Sequence[Slice],
    cotangents: Sequence[tuple[Value, Tensor | None, int, int]], wanted: Sequence[Value], fixed: Mapping[Value, Value],
) -> tuple[dict[Value, Tensor], dict[Value, Tensor]]:  # fmt: skip
    """A Scan over the steps of a body from last to first: cotangents of the first states, and of wanted slices."""
    floats = [state for state in states if _is_float(state[0])]
    outer = _active_captures(call)
    graph = _empty(call.writer, "backwards")
    mapping: dict[Value, Value] = dict(fixed)
    carried = [_input(graph, v, {}) for v, *_ in floats] + [_input(graph, v, {}) for v in outer]
    for v, *_ in slices:
        _input(graph, v, mapping)
    read = [(y, g, axis, back, _input(graph, y, {})) for y, g, axis, back in cotangents if g is not None]
    results = dict(zip(body.outputs, _copied(body, graph, mapping)))
    writer = Writer(graph)
    seeds: dict[Value, Tensor] = {}
    arriving = [(after, c) for (_, after, *_), c in zip(floats, carried)] + [(y, own) for y, *_, own in read]
    for y, value in arriving:
        here, result = Tensor(writer, value), results[y]
        seeds[result] = seeds[result] + here if result in seeds else here
    targets = [mapping[v] for v, *_ in floats] + outer + [mapping[v] for v in wanted]
    found = [_known(writer, v, g) for v, g in zip(targets, call.gradients(writer, seeds, targets))]
    n = len(floats)
    totals = [Tensor(writer, c) + g for c, g in zip(carried[n:], found[n : n + len(outer)])]
    _return(graph, [*found[:n], *totals, *found[n + len(outer) :]])
    starts = [Tensor(call.writer, last).zeros() if g is None else g for _, _, g, last in floats]
    starts += [Tensor(call.writer, v).zeros() for v in outer]
    scanned = [*((t, axis, back) for _, t, axis, back in slices), *((g, axis, back) for _, g, axis, back, _ in read)]
    places = {v: (axis, back) for v, _, axis, back in slices}
    attrs = {
        "body": graph, "num_scan_inputs": len(scanned),
        "scan_input_axes": tuple(axis for _, axis, _ in scanned),
        "scan_input_directions": tuple(back for *_, back in scanned),
        "scan_output_axes": tuple(places[v][0] for v in wanted),
        "scan_output_directions": tuple(places[v][1] for v in wanted),
    }  # fmt: skip
    types = [v.type for v, *_ in floats] + [v.type for v in outer] + [_stacked(v.type, places[v][0]) for v in wanted]
    inputs = [*(t.value for t in starts), *(t.value for t, *_ in scanned)]
    made = _append(call, Node("Scan", inputs, attrs, types))
    call.captured.update(zip(outer, made[n:]))
    return {v: g for (v, *_), g in zip(floats, made)}, dict(zip(wanted, made[n + len(outer) :]))


def _active_captures(call: Call) -> list[Value]:
    """The active outer values that the nested graphs read."""
    return [v for v in captures(call.node) if v in call.active and _is_float(v)]


def _is_float(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype.is_float


def _stacked(kind: Type | None, axis: int) -> Type | None:
    """The type of slices along an axis."""
    if not isinstance(kind, TensorType) or kind.shape is None:
        return kind
    sizes = list(kind.shape)
    sizes.insert(axis if axis >= 0 else axis + len(sizes) + 1, None)
    return TensorType(kind.dtype, tuple(sizes))


def _empty(writer: Writer, name: str) -> Graph:
    graph = Graph(name)
    graph.model = writer.graph.model
    return graph


def _input(graph: Graph, like: Value, mapping: dict[Value, Value]) -> Value:
    """A new input of a graph that replaces a value, with the value's type."""
    mapping[like] = graph.add_input(Value(like.type))
    return mapping[like]


def _copied(body: Graph, graph: Graph, mapping: dict[Value, Value]) -> list[Value]:
    """Append copies of a body's nodes to a graph; returns the copies of the body's results."""
    for node in body.snapshot():
        copy = graph.append(clone_node(node, mapping))
        for value, kind in zip(copy.outputs, infer(copy, graph.opsets)):
            value.type = refine(value.type, kind)
    return [mapping.get(v, v) for v in body.outputs]


def _known(writer: Writer, value: Value, g: Tensor | None) -> Tensor:
    return Tensor(writer, value).zeros() if g is None else g


def _return(graph: Graph, tensors: Sequence[Tensor]) -> None:
    """Set the graph's outputs, each a distinct value that the graph computes."""
    values = [t.Identity().value for t in tensors]
    graph.set_outputs(values, [Port("", v.type) for v in values])


def _append(call: Call, node: Node) -> list[Tensor]:
    node.origins, node.made_by = call.node.origins, "gradient"
    for value in node.outputs:  # onnxruntime requires names even for unread outputs
        value.name = "state"
    call.writer.graph.append(node)
    return [Tensor(call.writer, v) for v in node.outputs]


RULES: dict[str, Rule] = {"If": branch, "Loop": loop, "Scan": scan}
