"""LSTM, GRU and RNN: rewritten as a Scan of their equations, which is differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ...errors import Declined
from ...ir import DType, Graph, Node, Port, TensorType, Value
from ..call import Call, Gradients, Rule
from ..tensor import Tensor, Writer

Function = Callable[[Tensor], Tensor]
Cell = Callable[..., list[Tensor]]


def lstm(call: Call) -> Gradients:
    """i, o, f, c̃ = σ(x Wᵀ + h Rᵀ + b), c = f c + i c̃, h = o tanh c: the gradient of these equations over time"""
    return _differentiated(call, ["Sigmoid", "Tanh", "Tanh"], _lstm_cell, 4, (5, 6))


def gru(call: Call) -> Gradients:
    """z, r = σ(x Wᵀ + h Rᵀ + b), h̃ = tanh(x Wᵀ + (r h) Rᵀ + b), h = (1 − z) h̃ + z h: the gradient of these equations"""
    return _differentiated(call, ["Sigmoid", "Tanh"], _gru_cell, 3, (5,))


def rnn(call: Call) -> Gradients:
    """h = tanh(x Wᵀ + h Rᵀ + b): the gradient of this equation over time"""
    return _differentiated(call, ["Tanh"], _rnn_cell, 1, (5,))


def _differentiated(call: Call, defaults: list[str], cell: Cell, gates: int, slots: tuple[int, ...]) -> Gradients:
    """The gradients of the equations with respect to each wanted operand."""
    results = _written(call, defaults, cell, gates, slots)
    seeds = {y.value: g for y, g in zip(results, call.cotangents) if g is not None}
    wanted = sorted(call.wanted)
    values = [call.input(slot).value for slot in wanted]
    found = call.gradients(call.writer, seeds, values)
    return {slot: g for slot, g in zip(wanted, found) if g is not None}


def _written(call: Call, defaults: list[str], cell: Cell, gates: int, slots: tuple[int, ...]) -> list[Tensor]:
    """Y [T, D, N, H] and the last states [D, N, H] as nodes of the graph."""
    writer, x, w, r = call.writer, call.input(0), call.input(1), call.input(2)
    b, lengths, peep = call.optional(3), call.optional(4), call.optional(7) if len(slots) == 2 else None
    batch_first = bool(call.attr("layout", 0))
    x = x.transpose([1, 0, 2]) if batch_first else x
    directions, hidden = r.dims[0], r.dims[2]
    if not isinstance(directions, int) or not isinstance(hidden, int):
        raise Declined("a recurrent layer of unknown size")
    functions = _activations(call, defaults, directions)
    zeros = writer.full(writer.ints([x.size(1), hidden]), 0.0, x.dtype)
    mask = None if lengths is None else _mask(x, lengths)
    outputs: list[Tensor] = []
    finals: list[list[Tensor]] = []
    for d in range(directions):
        part = partial(_of, d)
        starts = []
        for slot in slots:
            start = call.optional(slot)
            if start is None:
                starts.append(zeros)
            else:
                starts.append(part(start.transpose([1, 0, 2]) if batch_first else start))
        bias = None if b is None else part(b)
        given = x @ part(w).T
        if bias is not None:
            given = given + bias.slice([0], [gates * hidden], [0])
        recurrent = None if bias is None else bias.slice([gates * hidden], [2 * gates * hidden], [0])
        backwards = int(call.attr("direction", "forward") == "reverse" or d == 1)
        outer = (part(r), recurrent, None if peep is None else part(peep))
        bodied = partial(cell, functions[d], call, hidden)
        y, last = _scanned(writer, bodied, given, mask, starts, outer, backwards)
        outputs.append(y)
        finals.append(last)
    stacked = [t.unsqueeze([1]) for t in outputs]
    y = stacked[0] if directions == 1 else writer.node("Concat", *stacked, axis=1)
    ends = []
    for i in range(len(slots)):
        parts = [last[i].unsqueeze([0]) for last in finals]
        ends.append(parts[0] if directions == 1 else writer.node("Concat", *parts, axis=0))
    if batch_first:
        return [y.transpose([2, 0, 1, 3]), *(t.transpose([1, 0, 2]) for t in ends)]
    return [y, *ends]


def _of(direction: int, t: Tensor) -> Tensor:
    return t.slice([direction], [direction + 1], [0]).squeeze([0])


def _mask(x: Tensor, lengths: Tensor) -> Tensor:
    """1 for the steps within each row's length, else 0: [T, N, 1]."""
    w = x.writer
    zero, one = w.constant(0, DType.INT64), w.constant(1, DType.INT64)
    steps = w.node("Range", zero, x.shape.slice([0], [1]).squeeze([0]), one).unsqueeze([1, 2])
    return steps.less(lengths.cast(DType.INT64).unsqueeze([0, 2])).cast(x.dtype)


def _scanned(
    writer: Writer, cell: Cell, given: Tensor, mask: Tensor | None, starts: Sequence[Tensor],
    outer: Sequence[Tensor | None], backwards: int,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """All results h [T, N, H] and the last states, of a Scan of the cell over `given` [T, N, gates · H]."""
    graph = Graph("cell")
    graph.model = writer.graph.model
    inner = Writer(graph)
    states = [Tensor(inner, graph.add_input(Value(t.value.type))) for t in starts]
    rows = [t for t in (given, mask) if t is not None]
    slices = [Tensor(inner, graph.add_input(Value(TensorType(t.dtype, t.dims[1:])))) for t in rows]
    read = [None if t is None else Tensor(inner, t.value) for t in outer]
    made = cell(slices[0], *read, *states)
    y = made[0]
    if mask is not None:
        kept = slices[1]
        y = made[0] * kept
        made = [new * kept + old * (1 - kept) for new, old in zip(made, states)]
    results = [t.Identity() for t in (*made, y)]
    for t, s in zip(results, (*states, states[0])):
        t.value.type = s.value.type
    graph.set_outputs([t.value for t in results], [Port("", t.value.type) for t in results])
    attrs = {
        "body": graph, "num_scan_inputs": len(rows), "scan_input_directions": (backwards,) * len(rows),
        "scan_output_directions": (backwards,),
    }  # fmt: skip
    hidden = states[0].type
    kind = TensorType(hidden.dtype, (given.dims[0], *hidden.shape)) if hidden.shape is not None else hidden
    node = Node("Scan", [t.value for t in (*starts, *rows)], attrs, [*(t.value.type for t in starts), kind])
    node.origins, node.made_by = writer.origins, "gradient"
    for value in node.outputs:  # onnxruntime requires names even for unread outputs
        value.name = "state"
    writer.graph.append(node)
    *last, all_of = (Tensor(writer, v) for v in node.outputs)
    return all_of, last


def _parts(t: Tensor, count: int, hidden: int) -> list[Tensor]:
    axis = t.rank - 1
    return [t.slice([i * hidden], [(i + 1) * hidden], [axis]) for i in range(count)]


def _plus(t: Tensor, b: Tensor | None) -> Tensor:
    return t if b is None else t + b


def _bounded(call: Call, f: Function, t: Tensor) -> Tensor:
    limit = call.attr("clip")
    return f(t if limit is None else t.Clip(t.writer.constant(-limit, t.dtype), t.writer.constant(limit, t.dtype)))


def _lstm_cell(
    f: list[Function], call: Call, hidden: int, given: Tensor, r: Tensor, b: Tensor | None, p: Tensor | None, h: Tensor,
    c: Tensor,
) -> list[Tensor]:  # fmt: skip
    i, o, forget, new = _parts(_plus(given + h @ r.T, b), 4, hidden)
    if p is not None:
        pi, po, pf = _parts(p, 3, hidden)
        i, forget = i + pi * c, forget + pf * c
    i = _bounded(call, f[0], i)
    forget = 1 - i if call.attr("input_forget", 0) else _bounded(call, f[0], forget)
    c = forget * c + i * _bounded(call, f[1], new)
    o = _bounded(call, f[0], o + po * c if p is not None else o)
    return [o * f[2](c), c]


def _gru_cell(
    f: list[Function], call: Call, hidden: int, given: Tensor, r: Tensor, b: Tensor | None, p: Tensor | None, h: Tensor
) -> list[Tensor]:
    xz, xr, xh = _parts(given, 3, hidden)
    rz, rr, rh = (r.slice([i * hidden], [(i + 1) * hidden], [0]) for i in range(3))
    bz, br, bh = (None, None, None) if b is None else _parts(b, 3, hidden)
    z = _bounded(call, f[0], _plus(xz + h @ rz.T, bz))
    reset = _bounded(call, f[0], _plus(xr + h @ rr.T, br))
    if call.attr("linear_before_reset", 0):
        inner = reset * _plus(h @ rh.T, bh)
    else:
        inner = _plus((reset * h) @ rh.T, bh)
    new = _bounded(call, f[1], xh + inner)
    return [(1 - z) * new + z * h]


def _rnn_cell(
    f: list[Function], call: Call, hidden: int, given: Tensor, r: Tensor, b: Tensor | None, p: Tensor | None, h: Tensor
) -> list[Tensor]:
    return [_bounded(call, f[0], _plus(given + h @ r.T, b))]


def _activations(call: Call, defaults: list[str], directions: int) -> list[list[Function]]:
    """The functions of each direction, by name with their parameters."""
    given = list(call.attr("activations") or defaults * directions)
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in given]
    alphas, betas = (list(call.attr(f"activation_{kind}") or []) for kind in ("alpha", "beta"))
    made = []
    for i, name in enumerate(names):
        alpha, beta = (values[i] if i < len(values) else None for values in (alphas, betas))
        made.append(_function(name, alpha, beta))
    each = len(defaults)
    return [made[d * each : (d + 1) * each] for d in range(directions)]


def _function(name: str, alpha: float | None, beta: float | None) -> Function:
    plain = {word.lower(): word for word in ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus")}
    scaled = {"leakyrelu": "LeakyRelu", "thresholdedrelu": "ThresholdedRelu", "elu": "Elu"}
    word = name.lower()
    if word in plain:
        return lambda t: t.writer.node(plain[word], t)
    if word in scaled:
        return lambda t: t.writer.node(scaled[word], t, alpha=alpha)
    if word == "hardsigmoid":
        return lambda t: t.writer.node("HardSigmoid", t, alpha=alpha, beta=beta)
    if word == "affine":
        return lambda t: t * (1.0 if alpha is None else alpha) + (beta or 0.0)
    raise Declined(f"the activation {name}")


RULES: dict[str, Rule] = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
