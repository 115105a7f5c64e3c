"""Scales for each channel of activations, chosen for a whole model and put in place of one a tensor."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np

from ...ir import Node, Value
from ...stages import Context
from .channels import (
    DEAD,
    ChannelGrid,
    balanced,
    channel_grid,
    eligible,
    energy,
    evicted,
    is_hard_swish,
    needs_one_zero,
    reach,
    seen_by,
)  # fmt: skip
from .moments import gather
from .solve import Solved, pair_safety, solve
from .speed import useful
from .study import Study
from .units import Unit


def with_channels(studied: Study, context: Context) -> Study | None:
    """The study with channels of their own wherever only linear operators meet codes; None where that is nowhere.

    Calibrates those values once more, channel by channel, and rounds the weights that read them anew.
    """
    options, plan = studied.options, studied.plan
    if options.mode != "static" or options.format != "qdq" or options.weight_type == "int4":
        return None
    if context.target == "graphopt" or not options.per_channel:
        return None
    units = useful(evicted(useful(plan.units)))
    values = eligible(units)
    if not values:
        return None
    context.tell("calibrate channels", 0.0)
    signed = options.activation_type == "int8"
    grids: dict[Value, ChannelGrid] = {}
    for value, (low, high) in reach(studied.model, values, islice(iter(context.calibration), options.samples)).items():
        near = [u for u in units if value in (*u.inputs, *u.outputs)]
        readers = [u.linear for u in near if u.linear is not None and value in u.inputs]
        weights = sum((energy(linear) for linear in readers), np.zeros(len(low)))
        if is_hard_swish(value):
            low = np.maximum(low, DEAD)
        grid = channel_grid(
            low, high, weights if weights.any() else np.ones(len(low)), values[value], signed=signed,
            shared=needs_one_zero(value, near),
        )  # fmt: skip
        dense = any(not linear.is_depthwise for linear in readers)
        grids[value] = balanced(grid) if dense else grid
    layers = [u for u in units if u.linear is not None and u.inputs[0] in grids]
    solved = {**studied.solved, **_solved(studied, layers, grids, context)}
    made = replace(
        plan, units=units, channels=grids, grids={**plan.grids, **{v: g.base for v, g in grids.items()}},
        codes={**plan.codes, **{u.node: solved[u.node].codes for u in layers}},
    )  # fmt: skip
    return replace(studied, plan=made, solved=solved)


def _solved(
    studied: Study, layers: list[Unit], grids: dict[Value, ChannelGrid], context: Context
) -> dict[Node, Solved]:
    safe = pair_safety(studied.options, context.target)
    changed = {u.node: seen_by(u.linear, grids[u.inputs[0]]) for u in layers if u.linear is not None}
    inputs = {u.node: u.inputs[0] for u in layers}
    given = [(u.inputs[0], changed[u.node]) for u in layers]
    found = {}
    for linear, moments in gather(
        studied.model, given, lambda: islice(iter(context.calibration), studied.options.samples), context.seed
    ):
        found[linear.node] = solve(linear, moments, studied.options, safe, grids[inputs[linear.node]].base.scale, 8)
    return found
