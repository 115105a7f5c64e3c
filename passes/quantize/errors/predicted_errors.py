"""Predicted errors of single units: each unit's rounding error times the results' gradient, in one pass for all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from ....compress.context import StageContext
from ....errors import GraphoptError
from ....gradient.sensitivity import relative_changes
from ....ir import Array, Constant, Model, Node, Value
from ....ops import update_types
from ..candidates.assignment import Assignment
from ..candidates.calibrated_model import CalibratedModel
from ..candidates.units import Unit
from ..emit.constants import grid_operands
from ..emit.mapped_clone import MappedClone, mapped_clone
from ..emit.narrow import narrowed
from ..numerics.grids import Codes

DRAWS = 16
"""Backward passes a feed, where results have many elements: the ranking depends on the spread of their squares.
`graphopt.Quantize(sensitivity=True)` reports the rank correlation with measured errors."""


def predicted_errors(
    calibrated: CalibratedModel, units: Sequence[Unit], context: StageContext, samples: int
) -> dict[Unit, float]:
    """Relative errors (RMS) of the results with each unit alone quantized, to first order: E Σ_y ⟨∂y/∂v, δ⟩² / ‖y‖²
    for the change δ of the unit's result v by rounding its inputs, weight and result, computed exactly.

    It is the Fisher information of Theis et al. 2018 along the change by quantization. {} where unknown: for
    activations with scales a channel, and where a node has no gradient.
    """
    assignment = calibrated.assignment
    if assignment.channels or not units:
        return {}
    clone = mapped_clone(assignment.model)
    drop_final_softmax(clone.model)
    rounded: dict[tuple[Value, bool], Value] = {}
    changes = []
    try:
        for unit in units:
            changes.append((clone.values[unit.output], _changed(clone, unit, assignment, rounded)))
        feeds = islice(context.quality.feeds, samples)
        found = relative_changes(clone.model, changes, feeds, draws=DRAWS, seed=context.seed)
    except GraphoptError:
        return {}
    return {unit: float(error) for unit, error in zip(units, found) if np.isfinite(error)}


def _changed(clone: MappedClone, unit: Unit, assignment: Assignment, rounded: dict[tuple[Value, bool], Value]) -> Value:
    """The result of a unit alone on integers, whose inputs are float results; appended to the clone."""
    node, is_static = clone.nodes[unit.node], assignment.options.mode == "static" and not unit.is_table
    inputs, shift = list(node.inputs), None
    for value in unit.inputs if is_static else ():
        is_narrow = unit.linear is not None and value in assignment.narrow
        read = _rounded(clone, value, clone.values[value], assignment, is_narrow, rounded)
        inputs = [read if v is clone.values[value] else v for v in inputs]
    if assignment.options.mode == "dynamic" and not unit.is_table:
        inputs[0] = _rounded_while_running(clone, clone.values[unit.inputs[0]], rounded)
    if unit.linear is not None:
        codes = assignment.codes[unit.node]
        whole = unit.linear.stored(whole_weight(codes)).reshape(unit.linear.constant.shape)
        inputs[0 if unit.is_table else 1] = Value(constant=Constant.of(whole))
        if codes.bias is not None and unit.linear.takes_bias:
            if unit.linear.addition is None:
                inputs = [*inputs[:2], Value(constant=Constant.of(codes.bias))]
            elif unit.linear.bias is not None:
                shift = codes.bias - unit.linear.bias  # the bias of the Add after the product
    result = _append(clone, node, inputs)
    if shift is not None:
        more = Node("Add", [result, Value(constant=Constant.of(shift.astype(np.float32)))], None, [result.type])
        clone.model.graph.append(more)
        result = more.output
    if unit.clamp is not None:
        clamp = clone.nodes[unit.clamp]
        result = _append(clone, clamp, [result, *clamp.inputs[1:]])
    if is_static and not unit.may_end_float:
        result = _rounded(clone, unit.output, result, assignment, False, {})
    return result


def whole_weight(codes: Codes) -> Array:
    """The dequantized weight of codes, f32 [G, N/G, K]."""
    depth = codes.rows.shape[-1]
    scale, zero = codes.scale, codes.zero
    if scale.ndim == 2:
        scale = scale[..., None]
    if codes.block is not None:
        scale = np.repeat(scale, codes.block, axis=-1)[..., :depth]
        zero = None if zero is None else np.repeat(zero, codes.block, axis=-1)[..., :depth]
    rows = codes.rows.astype(np.float32)
    return np.asarray((rows if zero is None else rows - zero) * scale, np.float32)


def _append(clone: MappedClone, like: Node, inputs: list[Value | None]) -> Value:
    node = Node(like.op, inputs, dict(like.attrs), [v.type for v in like.outputs])
    clone.model.graph.append(node)
    return node.output


def _rounded(
    clone: MappedClone, value: Value, source: Value, assignment: Assignment, is_narrow: bool,
    known: dict[tuple[Value, bool], Value],
) -> Value:  # fmt: skip
    """`source` on the grid of an activation of the assignment's model."""
    if (value, is_narrow) not in known:
        if is_narrow:
            steps = narrowed(source, assignment.narrow[value], False, "")
        else:
            operands = grid_operands(assignment.grids[value])
            steps = [Node("QuantizeLinear", (source, *operands))]
            steps.append(Node("DequantizeLinear", (steps[0].output, *operands)))
        for step in steps:
            clone.model.graph.append(step)
            update_types(step)
        known[value, is_narrow] = steps[-1].output
    return known[value, is_narrow]


def _rounded_while_running(clone: MappedClone, value: Value, known: dict[tuple[Value, bool], Value]) -> Value:
    """A value of the clone, rounded to its run-time grid of mode dynamic."""
    if (value, False) not in known:
        quantize = Node("DynamicQuantizeLinear", (value,), None, 3)
        clone.model.graph.append(quantize)
        update_types(quantize)
        read = Node("DequantizeLinear", quantize.outputs)
        clone.model.graph.append(read)
        update_types(read)
        known[value, False] = read.output
    return known[value, False]


def drop_final_softmax(model: Model) -> bool:
    """Return logits instead of Softmax outputs; True if changed."""
    graph = model.graph
    producers = [value.producer for value in graph.outputs]
    scores = [v if n is None or n.op != "Softmax" else n.inputs[0] for v, n in zip(graph.outputs, producers)]
    changed = any(a is not b for a, b in zip(scores, graph.outputs))
    if changed:
        graph.set_outputs([v for v in scores if v is not None], graph.ports)
    return changed
