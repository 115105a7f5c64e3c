"""LSTM, GRU and RNN by their equations, a step at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ...errors import Declined

Cell = Callable[..., tuple[Any, ...]]


def _activation(name: str, alpha: float | None, beta: float | None) -> Callable[[Any], Any]:
    known: dict[str, Callable[[Any], Any]] = {
        "relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "softsign": F.softsign,
        "softplus": F.softplus, "affine": lambda x: x * (1.0 if alpha is None else alpha) + (beta or 0.0),
        "leakyrelu": lambda x: F.leaky_relu(x, 0.01 if alpha is None else alpha),
        "elu": lambda x: F.elu(x, 1.0 if alpha is None else alpha),
        "hardsigmoid": lambda x: torch.clamp(
            x * (0.2 if alpha is None else alpha) + (0.5 if beta is None else beta), 0, 1
        ),
    }  # fmt: skip
    if name.lower() not in known:
        raise Declined(f"the activation {name}")
    return known[name.lower()]


def _activations(call: Any, defaults: list[str], directions: int) -> list[list[Callable[[Any], Any]]]:
    given = list(call.attr("activations") or defaults * directions)
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in given]
    alphas, betas = (list(call.attr(f"activation_{k}") or []) for k in ("alpha", "beta"))
    made = [_activation(name, *(v[i] if i < len(v) else None for v in (alphas, betas))) for i, name in enumerate(names)]
    each = len(defaults)
    return [made[i * each : (i + 1) * each] for i in range(directions)]


def _run(call: Any, defaults: list[str], cell: Cell, x: Any, w: Any, r: Any, b: Any, lengths: Any, *states: Any,
         extra: Any = None) -> Any:  # fmt: skip
    """All directions over time: (Y, then the last states). x [T, N, I], or [N, T, I] with layout 1."""
    if call.attr("layout", 0):
        x = x.transpose(0, 1)
        states = tuple(None if s is None else s.transpose(0, 1) for s in states)
    directions, hidden = r.shape[0], r.shape[2]
    mode, clip = call.attr("direction", "forward"), call.attr("clip")
    functions = _activations(call, defaults, directions)
    steps, batch = x.shape[:2]
    zeros = x.new_zeros(batch, hidden)
    outputs, finals = [], []
    for d in range(directions):
        backwards = mode == "reverse" or d == 1
        now = [zeros if s is None else s[d] for s in states]
        rows: list[Any] = [None] * steps
        bias = None if b is None else b[d]
        peep = None if extra is None else extra[d]
        given = F.linear(x, w[d])  # x Wᵀ + b of all steps at once
        bound = (lambda t: t) if clip is None else (lambda t: torch.clamp(t, -clip, clip))
        for t in range(steps):
            at = steps - 1 - t if backwards else t
            new = cell(functions[d], given[at], r[d], bias, peep, bound, call, *now)
            if lengths is not None:
                inside = (at < lengths).unsqueeze(1)
                rows[at] = torch.where(inside, new[0], zeros)
                now = [torch.where(inside, n, o) for n, o in zip(new, now)]
            else:
                rows[at], now = new[0], list(new)
        outputs.append(torch.stack(rows))
        finals.append(now)
    y = torch.stack(outputs, 1)
    last = [torch.stack([f[i] for f in finals]) for i in range(len(states))]
    if call.attr("layout", 0):
        y, last = y.permute(2, 0, 1, 3), [s.transpose(0, 1) for s in last]
    return (y, *last)[: call.outputs]


def _lstm_cell(f: Any, given: Any, r: Any, b: Any, p: Any, bound: Any, call: Any, h: Any, c: Any) -> tuple[Any, ...]:
    """i, o, f, c̃ of x Wᵀ + h Rᵀ + b: c = f c + i c̃, h = o tanh c, with peepholes of c"""
    gates = given + F.linear(h, r)
    if b is not None:
        gates = gates + b[: gates.shape[1]] + b[gates.shape[1] :]
    i, o, forget, new = gates.chunk(4, 1)
    pi, po, pf = (0, 0, 0) if p is None else p.chunk(3)
    i, forget = f[0](bound(i + pi * c)), f[0](bound(forget + pf * c))
    if call.attr("input_forget", 0):
        forget = 1 - i
    c = forget * c + i * f[1](bound(new))
    return f[0](bound(o + po * c)) * f[2](c), c


def _gru_cell(f: Any, given: Any, r: Any, b: Any, p: Any, bound: Any, call: Any, h: Any) -> tuple[Any, ...]:
    """z, r = σ(x Wᵀ + h Rᵀ + b), h̃ = tanh(x Wᵀ + (r h) Rᵀ + b): h = (1 − z) h̃ + z h"""
    n = h.shape[1]
    wb, rb = (given.new_zeros(3 * n),) * 2 if b is None else b.chunk(2)
    given = given + wb
    gates = given[:, : 2 * n] + F.linear(h, r[: 2 * n]) + rb[: 2 * n]
    z, reset = (f[0](bound(t)) for t in gates.chunk(2, 1))
    if call.attr("linear_before_reset", 0):
        inner = reset * (F.linear(h, r[2 * n :]) + rb[2 * n :])
    else:
        inner = F.linear(reset * h, r[2 * n :]) + rb[2 * n :]
    new = f[1](bound(given[:, 2 * n :] + inner))
    return ((1 - z) * new + z * h,)


def _rnn_cell(f: Any, given: Any, r: Any, b: Any, p: Any, bound: Any, call: Any, h: Any) -> tuple[Any, ...]:
    """h = f(x Wᵀ + h Rᵀ + b)"""
    gates = given + F.linear(h, r)
    if b is not None:
        gates = gates + b[: gates.shape[1]] + b[gates.shape[1] :]
    return (f[0](bound(gates)),)


def lstm(call: Any, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None,
         p: Any = None) -> Any:  # fmt: skip
    """LSTM, as in ONNX's text"""
    return _run(call, ["Sigmoid", "Tanh", "Tanh"], _lstm_cell, x, w, r, b, lengths, h, c, extra=p)


def gru(call: Any, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None) -> Any:
    """GRU, as in ONNX's text"""
    return _run(call, ["Sigmoid", "Tanh"], _gru_cell, x, w, r, b, lengths, h)


def rnn(call: Any, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None) -> Any:
    """RNN, as in ONNX's text"""
    return _run(call, ["Tanh"], _rnn_cell, x, w, r, b, lengths, h)


OPERATORS: dict[str, Callable[..., Any]] = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
