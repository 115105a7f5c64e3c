"""Sequential bias correction: layer by layer, biases match the mean of integer results to that of float results.

Rounding and clipping of activations shift means, too, and a shift reaches all later layers; so each layer is corrected
on a model in which all earlier layers already are (Nagel et al. 2019, empirical bias correction). Several layers at
once would each absorb the same shift: on rapidocr-cls one by one gains 2.3 dB, and five at once lose 20.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ....calibration import Taps
from ....compress.context import StageContext
from ....compress.layers.linear import TRANSPOSED
from ....ir import Array, Model, Node, Value
from ..candidates.assignment import Assignment
from ..candidates.calibrated_model import CalibratedModel
from ..candidates.units import Unit, useful
from ..emit.qdq import build

SAMPLES = 8
"""Samples for means, each over all positions of a channel; every layer runs them once.
`python -m tests.bench.zoo_int8 rapidocr-cls` shows the effect."""


def with_bias_correction(calibrated: CalibratedModel, context: StageContext) -> CalibratedModel:
    """The calibrated model with biases corrected layer by layer, where requested and where results come closer to the
    reference's. Opens a session per layer."""
    if not calibrated.options.correct_means or calibrated.options.mode != "static":
        return calibrated
    assignment = calibrated.assignment.with_units(useful(calibrated.assignment.units))
    corrected = correct_biases(assignment, context)
    fidelity = context.quality.fidelity
    if fidelity(build(corrected)).sqnr_db <= fidelity(build(assignment)).sqnr_db:
        return calibrated
    return replace(calibrated, assignment=replace(calibrated.assignment, codes=corrected.codes))


def correct_biases(assignment: Assignment, context: StageContext) -> Assignment:
    """The assignment with biases that give each layer on integers the mean of its float results, in execution order."""
    order = assignment.order
    layers = [
        u for u in sorted(assignment.units, key=order.__getitem__) if u.linear is not None and u.linear.takes_bias
    ]
    feeds = context.calibration.first(SAMPLES)
    wanted = _means(assignment.model, [_last(unit).output for unit in layers], layers, feeds)
    labels = {node: f"n{i}_" for i, node in enumerate(assignment.model.graph)}
    for i, (unit, target) in enumerate(zip(layers, wanted)):
        context.tell(f"correct biases: layer {i + 1} of {len(layers)}", i / len(layers))
        model = build(replace(assignment, options=replace(assignment.options, format="qdq")), labels)
        value = next(node.output for node in model.graph if node.name == labels[_last(unit)])
        channels = assignment.channels.get(unit.output)
        if channels is not None:
            target = (target - channels.lift) / channels.gain
        shift = (target - _means(model, [value], [unit], feeds)[0]).astype(np.float32)
        old = assignment.codes[unit.node]
        if np.isfinite(shift).all():
            new = replace(old, bias=shift if old.bias is None else old.bias + shift)
            assignment = replace(assignment, codes={**assignment.codes, unit.node: new})
    return assignment


def _last(unit: Unit) -> Node:
    """The node that adds the bias."""
    return unit.node if unit.layer.addition is None else unit.layer.addition[0]


def _means(
    model: Model, values: Sequence[Value], layers: Sequence[Unit], feeds: Sequence[dict[str, Any]]
) -> list[Array]:
    """The mean of each channel of each value over all samples."""
    taps = Taps(model, values)
    sums: list[Any] = [0.0] * len(values)
    counts = [0] * len(values)
    for feed in feeds:
        seen = taps.run(feed)
        for i, (value, unit) in enumerate(zip(values, layers)):
            array = seen[value]
            axis = 1 if unit.node.op in ("Conv", TRANSPOSED) else array.ndim - 1
            others = tuple(a for a in range(array.ndim) if a != axis)
            sums[i] = sums[i] + array.sum(axis=others, dtype=np.float64)
            counts[i] += array.size // array.shape[axis]
    return [total / max(count, 1) for total, count in zip(sums, counts)]
