"""Ranges derivable from calibrated tensors: reading a tensor out of onnxruntime costs more than computing it.

Codes pass through MaxPool, Reshape and their kin unchanged, and Concat holds the elements of its inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np

from ....calibration import Extent
from ....ir import TensorType, Value
from ..options import Quantize
from .units import Unit

Sources = tuple[Value, ...]


def derivable(units: Iterable[Unit], options: Quantize) -> dict[Value, tuple[Unit, Sources]]:
    """The values whose extent follows from those of source values, with the unit and the sources; sources come first.
    None but for min-max: other methods need histograms."""
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
    """Results [N, C, space…] of a clamp at zero: never negative, so that the largest of each channel gives the extent.

    A maximum of onnxruntime may pass over NaN. From finite operands NaN comes only by overflow, and a unit's operands
    are observed, too. Space must not be empty, which a pool refuses; a convolution already does.
    """
    return frozenset(
        unit.output for unit in units if unit.clamp is not None and unit.limits[0] == 0 and _has_space(unit)
    )


def _has_space(unit: Unit) -> bool:
    shape = unit.output.type.shape if isinstance(unit.output.type, TensorType) else None
    if shape is None or len(shape) < 3:
        return False
    return unit.node.op == "Conv" or all(isinstance(d, int) and d > 0 for d in shape[2:])


def derive_ranges(seen: dict[Value, Extent], derived: dict[Value, tuple[Unit, Sources]]) -> None:
    """Add the derivable extents to `seen`; those whose sources were not seen stay absent."""
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


def _ratio(source: Value, value: Value) -> float | None:
    """Elements of `value` for each of `source`; None where open sizes leave that unknown."""
    first, second = _elements(source), _elements(value)
    if first is None or second is None or first[1] != second[1] or not first[0]:
        return None
    return second[0] / first[0]


def _elements(value: Value) -> tuple[int, list[str]] | None:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    if shape is None or any(d is None for d in shape):
        return None
    return prod(d for d in shape if isinstance(d, int)), sorted(str(d) for d in shape if not isinstance(d, int))
