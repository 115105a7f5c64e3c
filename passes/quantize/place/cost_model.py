"""The cost of units on this machine: profiles of the float and the integer model in onnxruntime."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ....calibration import Shapes
from ....ir import Constant, DType, Graph, Model, Node, TensorType, Value
from ....machine.measurements import Measurements, Pair
from ....measure import compare_latency, ort_session, own_clock, profile_nodes, structure_digest
from ..candidates.assignment import Assignment
from ..candidates.units import Unit
from ..emit.mapped_clone import mapped_clone
from ..emit.qdq import build, name_nodes
from .min_cut import Costs

_LABEL = re.compile(r"(?<![A-Za-z0-9])n(\d+)_")
_CONVERSIONS = "rates"
"""The key of the rates of conversions."""
_CONVERSION = re.compile(r"\d_(?:de)?quantize(?:_|$)")
CALL = 1.5e-6
"""Fixed seconds per conversion, beside those per element: a conservative guess, so that the cut leaves small regions
float (a chain of one-element nodes takes 0.2 µs each). `python -m tests.bench.zoo_int8` shows the effect."""


def profile_units(
    assignment: Assignment, choices: Iterable[frozenset[Unit]], feed: Mapping[str, Any]
) -> list[dict[Unit, float]]:
    """Seconds of each unit, from one profile of the model for each choice of units on integers, all in turn.

    Time is attributed to the unit of the node or clamp; conversions, and nodes of no unit, are excluded.
    """
    nodes = list(assignment.model.graph)
    labels = {node: f"n{i}_" for i, node in enumerate(nodes)}
    owner = {node: unit for unit in assignment.units for node in (unit.node, unit.clamp) if node is not None}
    models = [build(assignment.with_units(chosen), labels) if chosen else _labelled(assignment.model, labels)
              for chosen in choices]  # fmt: skip
    profiles = []
    for times in profile_nodes(models, feed):
        seconds = dict.fromkeys(assignment.units, 0.0)
        for name, time in times.items():
            label = _LABEL.search(name)
            unit = None if label is None or _CONVERSION.search(name) else owner.get(nodes[int(label.group(1))])
            if unit is not None:
                seconds[unit] += time
        profiles.append(seconds)
    return profiles


def _labelled(model: Model, labels: dict[Node, str]) -> Model:
    clone = mapped_clone(model)
    name_nodes(clone, labels)
    return clone.model


def conversion_costs(assignment: Assignment, shapes: Shapes) -> tuple[dict[Value, float], dict[Value, float]]:
    """Seconds to quantize and to dequantize each value of the units, from its elements and this machine's rates."""
    into, out = conversion_rates()
    counts = {v: math.prod(shapes.get(v, ())) for unit in assignment.units for v in (*unit.inputs, *unit.outputs)}
    scaled = {v for v, grid in assignment.channels.items() if not grid.is_long}  # by a Mul and an Add
    calls = {value: 3 * CALL if value in scaled else CALL for value in counts}
    return (
        {value: calls[value] + count * into for value, count in counts.items()},
        {value: calls[value] + count * out for value, count in counts.items()},
    )


def conversion_rates() -> Pair:
    """Seconds per element of QuantizeLinear and of DequantizeLinear, measured once on this machine."""
    table = Measurements("conversions")
    known = table.load()
    if _CONVERSIONS not in known:
        known = {_CONVERSIONS: _measured_rates()}
        table.add(known)
    return known[_CONVERSIONS]


def _measured_rates() -> Pair:
    size = 1 << 16
    codes = np.zeros(size, np.uint8)
    took = []
    for op, given in (("QuantizeLinear", codes.astype(np.float32)), ("DequantizeLinear", codes)):
        x = Value(TensorType(DType.of(given.dtype), (size,)), "x")
        scale, zero = Value(constant=Constant.of(np.float32(0.1))), Value(constant=Constant.of(np.uint8(3)))
        graph = Graph("rate", [x])
        node = graph.append(Node(op, (x, scale, zero)))
        node.output.type = TensorType(DType.UINT8 if op == "QuantizeLinear" else DType.FLOAT, (size,))
        node.output.name = "y"
        graph.set_outputs([node.output])
        session = ort_session(Model(graph, {"": 13}, ir_version=8))
        took.append(compare_latency({op: session}, {"x": given}, seconds=0.05, clock=own_clock())[0].best / size)
    return took[0], took[1]


def measure_costs(assignment: Assignment, feed: Mapping[str, Any], shapes: Shapes) -> Costs:
    """Times of all units as float and on integers; cached for models of the same structure on this machine."""
    ordered = sorted(assignment.units, key=assignment.order.__getitem__)
    key = assignment_digest(assignment, feed)
    table = Measurements("units")
    measured = table.load()
    keys = [f"{key}:{i}" for i in range(len(ordered))]
    if any(k not in measured for k in keys):
        codes, floats = profile_units(assignment, (assignment.units, frozenset()), feed)
        measured = {k: (codes[u], floats[u]) for k, u in zip(keys, ordered)}
        table.add(measured)
    times = [measured[k] for k in keys]
    if assignment.options.mode == "static":
        quantize, dequantize = conversion_costs(assignment, shapes)
    else:  # a layer's time includes its own conversion
        quantize = dequantize = {v: 0.0 for u in assignment.units for v in (*u.inputs, *u.outputs)}
    return Costs(
        {u: t[1] for u, t in zip(ordered, times)}, {u: t[0] for u, t in zip(ordered, times)}, quantize, dequantize
    )


def assignment_digest(assignment: Assignment, feed: Mapping[str, Any]) -> str:
    """A digest of all on which the times of an assignment's units depend."""
    facts = f"quantize-6 {assignment.options.mode} {assignment.options.weight_type}"
    return structure_digest(assignment.model, feed, facts, {unit.node for unit in assignment.units})
