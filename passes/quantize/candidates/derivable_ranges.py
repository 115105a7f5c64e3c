"""Ranges derivable from calibrated tensors: reading a tensor out of onnxruntime costs more than computing it.

Codes pass through MaxPool, Reshape and similar operators unchanged, and Concat contains the elements of its inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np

from ....calibration import Extent
from ....ir import Node, TensorType, Value
from ....ops import attr
from ..options import Quantize
from .units import Unit

Sources = tuple[Value, ...]


def derivable(units: Iterable[Unit], options: Quantize) -> dict[Value, tuple[Unit, Sources]]:
    """The values whose extent follows from source values' extents, with the unit and the sources; sources come first.
    Only for min-max: other methods need histograms."""
    if options.calibrate_method != "minmax":
        return {}
    derived: dict[Value, tuple[Unit, Sources]] = {}
    for unit in units:
        if unit.passes_codes:
            derived.update((v, (unit, unit.inputs[:1])) for v in unit.outputs if _ratio(unit.inputs[0], v) is not None)
        elif unit.node.op == "Concat":
            derived[unit.output] = unit, unit.inputs
    return derived


def non_negative_images(units: Iterable[Unit]) -> frozenset[Value]:
    """Results [N, C, space…] of a clamp at zero: never negative, so that each channel's maximum gives the extent.

    onnxruntime's maximum may skip NaN. Finite operands give NaN only by overflow, and a unit's operands are observed,
    too. A pool refuses empty space; so does a convolution already.
    """
    return frozenset(
        unit.output for unit in units if unit.clamp is not None and unit.limits[0] == 0 and _has_space(unit)
    )


def silent_below(value: Value) -> float:
    """The number below which elements of a value do not affect results, −∞ for none: x h(x) = 0 for x ≤ −β / α, h(x) =
    max(0, min(1, αx + β)), where x has no other readers. Codes need not reach further down."""
    floors: list[float] = []
    for node in value.users:
        if node.op == "HardSwish":
            floors.append(-3.0)
        elif node.op == "HardSigmoid" and all(_is_gated(user, value, node) for user in node.output.users):
            floors.append(-float(attr(node, "beta", 0.5)) / float(attr(node, "alpha", 0.2)))
        elif node.op != "Mul" or not any(v is not None and _gate_of(v, value) for v in node.inputs):
            return -np.inf
    return min(floors, default=-np.inf)


def _is_gated(node: Node, value: Value, gate: Node) -> bool:
    """Whether a node multiplies a value by its gate."""
    return node.op == "Mul" and set(node.inputs) == {value, gate.output}


def _gate_of(gate: Value, value: Value) -> bool:
    node = gate.producer
    return node is not None and node.op == "HardSigmoid" and node.inputs[0] is value


def _has_space(unit: Unit) -> bool:
    shape = unit.output.type.shape if isinstance(unit.output.type, TensorType) else None
    if shape is None or len(shape) < 3:
        return False
    return unit.node.op == "Conv" or all(isinstance(d, int) and d > 0 for d in shape[2:])


def derive_ranges(seen: dict[Value, Extent], derived: dict[Value, tuple[Unit, Sources]]) -> None:
    """Add the derivable extents to `seen`, except those with unobserved sources."""
    for value, (unit, sources) in derived.items():
        parts = [seen[source] for source in sources if source in seen]
        if len(parts) < len(sources):
            continue
        extent = Extent()
        for part in parts:
            extent.merge(part)
        extent.low, extent.high = np.clip([extent.low, extent.high], *unit.limits).tolist()
        if unit.passes_codes:
            extent.seen = round(extent.seen * (_ratio(sources[0], value) or 1.0))
        seen[value] = extent


def forget_silent(seen: dict[Value, Extent]) -> None:
    """Cut extents at the number below which elements do not affect results."""
    for value, extent in seen.items():
        extent.low = max(extent.low, silent_below(value))


def _ratio(source: Value, value: Value) -> float | None:
    """The number of elements of `value` per element of `source`; None where open sizes make it unknown."""
    first, second = _elements(source), _elements(value)
    if first is None or second is None or first[1] != second[1] or not first[0]:
        return None
    return second[0] / first[0]


def _elements(value: Value) -> tuple[int, list[str]] | None:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    if shape is None or any(d is None for d in shape):
        return None
    return prod(d for d in shape if isinstance(d, int)), sorted(str(d) for d in shape if not isinstance(d, int))
