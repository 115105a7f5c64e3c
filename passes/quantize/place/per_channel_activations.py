"""Activations with scales a channel, chosen for a whole model, in place of one a tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from ....calibration import stream
from ....compress.context import StageContext
from ....ir import Array, Model, Value
from ...fold.weights import is_padded
from ..candidates.calibrated_model import Study, solve_all
from ..candidates.units import BINARY, FUNCTIONS, Unit
from ..numerics.per_channel import ChannelGrid, between, channel_grid, energy
from .latency_guard import useful

HEADROOM = 2.0
"""The most by which a channel's range exceeds what was seen for the distance of its two largest samples."""
ENOUGH = 1e5
"""Elements of a channel, the largest of which is to fit: of one channel less is seen than of a tensor. Of n elements
the largest is about √(2 ln n) deviations of a normal distribution."""


def with_channels(studied: Study, context: StageContext) -> Study | None:
    """The study with scales a channel wherever convolutions alone meet codes; None where that is nowhere.

    Calibrates those values once more by each channel's range, whatever the method, and rounds the weights of the
    convolutions beside them anew; their J is in the scales of their channels.
    """
    options, plan = studied.options, studied.plan
    if options.mode != "static" or options.format != "qdq" or options.weight_type == "int4" or not options.per_channel:
        return None
    if context.target == "graphopt" or not options.per_channel_activations:
        return None
    units = useful(evicted(useful(plan.units)))
    ordered = sorted(units, key=plan.order.__getitem__)
    values = eligible(studied, ordered)
    if not values:
        return None
    context.tell("calibrate channels", 0.0)
    ranges = reach(studied.model, values, islice(iter(context.calibration), options.samples))
    grids = {v: _grid(studied, v, ordered, *ranges[v]) for v in values if v in ranges}
    layers = [u for u in ordered if u.linear is not None and (u.inputs[0] in grids or u.output in grids)]
    folded = [
        replace(u, linear=between(u.linear, grids.get(u.inputs[0]), grids.get(u.output)))
        for u in layers if u.linear is not None
    ]  # fmt: skip
    known = {**plan.grids, **{v: grid.base for v, grid in grids.items()}}
    solved = {**studied.solved, **solve_all(studied.model, folded, {"minmax": known}, options, context)[0]}
    codes = {**plan.codes, **{u.node: solved[u.node].codes for u in layers}}
    made = replace(plan, units=units, channels=grids, grids=known, codes=codes)
    return replace(studied, plan=made, solved=solved, alone={})


def evicted(units: frozenset[Unit]) -> frozenset[Unit]:
    """Without arithmetic one operand of which is float anyway, like the Mul of HardSwish, and without functions that no
    unit reads: they go on as float, so that what they read and make can have channels of its own."""
    while True:
        made = {v for u in units for v in u.outputs if not u.may_end_float}
        read = {v for u in units for v in u.inputs}
        out = {u for u in units if u.node.op in BINARY and any(v not in made for v in u.inputs)}
        out |= {u for u in units if u.node.op in FUNCTIONS and not any(v in read for v in u.outputs)}
        if not out:
            return units
        units = units - out


def eligible(studied: Study, units: Sequence[Unit]) -> list[Value]:
    """Values of several channels that only convolutions read and make as codes."""
    others = {v for u in units if u.node.op != "Conv" for v in (*u.inputs, *u.outputs)}
    convolutions = [u for u in units if u.node.op == "Conv"]
    # a clamp on codes moves with the channels' scales only where its limits are 0 and infinite
    others |= {u.output for u in convolutions if u.clamp is not None and u.limits != (0.0, np.inf)}
    values = dict.fromkeys(v for u in convolutions for v in (u.inputs[0], u.output))
    return [v for v in values if v not in others and studied.shapes.get(v, (1, 1))[1] > 1]


def _grid(studied: Study, value: Value, units: Iterable[Unit], low: Array, high: Array) -> ChannelGrid:
    readers = [u for u in units if value in u.inputs]
    makers = [u for u in units if value in u.outputs]
    met = [u.linear for u in readers if u.linear is not None]
    return channel_grid(
        low, high,
        sum((energy(linear) for linear in met), np.full(len(low), 1e-30)),
        studied.shapes[value],
        signed=studied.options.activation_type == "int8",
        one_zero=any(is_padded(u.node) for u in readers) or any(u.clamp is not None for u in makers),
        mixed=any(not linear.is_depthwise for linear in met),
    )  # fmt: skip


def reach(model: Model, values: Iterable[Value], feeds: Iterable[dict[str, Any]]) -> dict[Value, tuple[Array, Array]]:
    """The range [low, high], f64 [C] each, of the channels along axis 1 over all samples, with room for what was not
    seen: the next sample is likely as far from the largest as that is from the second, or where few elements were seen,
    as many times larger as the largest of `ENOUGH` is."""
    found: dict[Value, Array] = {}
    counts: dict[Value, int] = {}
    for arrays in stream(model, list(values), feeds):
        for value, array in arrays.items():
            if not array.size:
                continue
            others = (0, *range(2, array.ndim))
            peaks = np.maximum(np.stack((-array.min(axis=others), array.max(axis=others))), 0.0).astype(np.float64)
            first, second = found.get(value, np.zeros((2, *peaks.shape)))
            found[value] = np.stack((np.maximum(first, peaks), np.maximum(np.minimum(first, peaks), second)))
            counts[value] = counts.get(value, 0) + array.size // array.shape[1]
    ranges = {}
    for value, (first, second) in found.items():
        more = math.sqrt(max(1.0, math.log(ENOUGH) / math.log(max(counts[value], 2))))
        low, high = np.maximum(np.minimum(2 * first - second, HEADROOM * first), more * first)
        ranges[value] = (-low, high)
    return ranges
