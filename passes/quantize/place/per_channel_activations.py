"""Per-channel activations, chosen for a whole model: a scale for each channel in place of one for the tensor."""

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
from ..candidates.calibrated_model import CalibratedModel, solve_layers
from ..candidates.derivable_ranges import silent_below
from ..candidates.units import BINARY, FUNCTIONS, Unit, useful
from ..numerics.per_channel import ChannelGrid, channel_energy, channel_grid, fold_channel_scales

HEADROOM = 2.0
"""The largest headroom of a channel's range above its largest sample, in distances between its two largest samples."""
ENOUGH = 1e5
"""Number of a channel's elements whose expected maximum the range should hold: calibration sees fewer elements of a
channel than of a tensor. The largest of n normal elements is about √(2 ln n) deviations. On unseen samples of
silero-openvino this gave 29.9 dB instead of 26.4; `python -m tests.bench.zoo_int8 silero-openvino` shows its effect and
that of `HEADROOM`."""


def with_per_channel_activations(calibrated: CalibratedModel, context: StageContext) -> CalibratedModel | None:
    """The calibrated model with scales a channel for every activation that only convolutions read or write as codes;
    None without any.

    Calibrates these activations again by each channel's range, whatever the method, and rounds the adjacent
    convolutions' weights again; their J is in units of the channels' scales.
    """
    options, assignment = calibrated.options, calibrated.assignment
    if options.mode != "static" or options.format != "qdq" or options.is_narrow or not options.per_channel:
        return None
    if context.target == "graphopt" or not options.per_channel_activations:
        return None
    units = useful(without_float_neighbours(useful(assignment.units)))
    ordered = sorted(units, key=assignment.order.__getitem__)
    values = convolution_values(calibrated, ordered)
    if not values:
        return None
    context.tell("calibrate channels", 0.0)
    ranges = channel_ranges(calibrated.model, values, islice(iter(context.calibration), options.samples))
    grids = {v: _grid(calibrated, v, ordered, *ranges[v]) for v in values if v in ranges}
    layers = [u for u in ordered if u.linear is not None and (u.inputs[0] in grids or u.output in grids)]
    folded = [
        replace(u, linear=fold_channel_scales(u.linear, grids.get(u.inputs[0]), grids.get(u.output)))
        for u in layers if u.linear is not None
    ]  # fmt: skip
    known = {**assignment.grids, **{v: grid.base for v, grid in grids.items()}}
    given = calibrated.model, folded, {"minmax": known}, options, context
    solved = {**calibrated.solved, **solve_layers(*given, store=assignment.store)[0]}
    codes = {**assignment.codes, **{u.node: solved[u.node].codes for u in layers}}
    per_channel = replace(assignment, units=units, channels=grids, grids=known, codes=codes)
    return replace(calibrated, assignment=per_channel, solved=solved)


def without_float_neighbours(units: frozenset[Unit]) -> frozenset[Unit]:
    """The units without arithmetic with a float operand, like HardSwish's Mul, and without functions that no unit
    reads: as float operators they permit scales a channel for adjacent activations."""
    while True:
        written = {v for u in units for v in u.outputs if not u.may_end_float}
        read = {v for u in units for v in u.inputs}
        out = {u for u in units if u.node.op in BINARY and any(v not in written for v in u.inputs)}
        out |= {u for u in units if u.node.op in FUNCTIONS and not any(v in read for v in u.outputs)}
        if not out:
            return units
        units = units - out


def convolution_values(calibrated: CalibratedModel, units: Sequence[Unit]) -> list[Value]:
    """Activations of several channels that only convolutions read and write as codes."""
    others = {v for u in units if u.node.op != "Conv" for v in (*u.inputs, *u.outputs)}
    convolutions = [u for u in units if u.node.op == "Conv"]
    # a clamp on codes commutes with the channels' scales only for limits 0 and infinity
    others |= {u.output for u in convolutions if u.clamp is not None and u.limits != (0.0, np.inf)}
    values = dict.fromkeys(v for u in convolutions for v in (u.inputs[0], u.output))
    return [v for v in values if v not in others and calibrated.shapes.get(v, (1, 1))[1] > 1]


def _grid(calibrated: CalibratedModel, value: Value, units: Iterable[Unit], low: Array, high: Array) -> ChannelGrid:
    readers = [u for u in units if value in u.inputs]
    writers = [u for u in units if value in u.outputs]
    met = [u.linear for u in readers if u.linear is not None]
    return channel_grid(
        low, high,
        sum((channel_energy(linear) for linear in met), np.full(len(low), 1e-30)),
        calibrated.shapes[value],
        signed=calibrated.options.signed,
        one_zero=any(is_padded(u.node) for u in readers) or any(u.clamp is not None for u in writers),
        mixed=any(not linear.is_depthwise for linear in met),
    )  # fmt: skip


def channel_ranges(
    model: Model, values: Iterable[Value], feeds: Iterable[dict[str, Any]]
) -> dict[Value, tuple[Array, Array]]:
    """The range (low, high), f64 [C] each, of the channels along axis 1 over all samples, with headroom.

    The next sample is likely as far from the largest as the largest is from the second; for few observed elements, the
    maximum is extrapolated to that of `ENOUGH` normal elements.
    """
    peaks_of: dict[Value, Array] = {}
    counts: dict[Value, int] = {}
    for arrays in stream(model, list(values), feeds):
        for value, array in arrays.items():
            if not array.size:
                continue
            others = (0, *range(2, array.ndim))
            peaks = np.maximum(np.stack((-array.min(axis=others), array.max(axis=others))), 0.0).astype(np.float64)
            first, second = peaks_of.get(value, np.zeros((2, *peaks.shape)))
            peaks_of[value] = np.stack((np.maximum(first, peaks), np.maximum(np.minimum(first, peaks), second)))
            counts[value] = counts.get(value, 0) + array.size // array.shape[1]
    ranges = {}
    for value, (first, second) in peaks_of.items():
        more = math.sqrt(max(1.0, math.log(ENOUGH) / math.log(max(counts[value], 2))))
        low, high = np.maximum(np.minimum(2 * first - second, HEADROOM * first), more * first)
        ranges[value] = (np.maximum(-low, silent_below(value)), high)
    return ranges
