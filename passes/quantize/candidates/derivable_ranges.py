"""Extents that follow from others, so that calibration need not read those values: what is read costs more than to run.

Codes pass through MaxPool, Reshape and their kin unchanged, and Concat holds what its inputs hold.
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
    """The values whose extent follows from that of others, which come first; none where more than extents is asked."""
    if options.calibrate_method != "minmax":
        return {}
    found: dict[Value, tuple[Unit, Sources]] = {}
    for unit in units:
        if unit.passes_codes:
            found.update((v, (unit, unit.inputs[:1])) for v in unit.outputs if _ratio(unit.inputs[0], v) is not None)
        elif unit.node.op == "Concat":
            found[unit.output] = unit, unit.inputs
    return found


def non_negative_images(units: Iterable[Unit]) -> frozenset[Value]:
    """Results of a clamp at zero, [N, C, space…]: never negative, so that the largest of each channel tells the extent.

    A maximum of onnxruntime may pass over NaN. None comes from finite operands but by overflow, and what a unit reads
    is observed, too. Space must not be empty, which a pool refuses; a convolution already does.
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
    """Add the extents that follow; those whose sources were not seen stay absent."""
    for value, (unit, sources) in derived.items():
        parts = [seen[source] for source in sources if source in seen]
        if len(parts) < len(sources):
            continue
        made = Extent()
        for part in parts:
            made.merge(part)
        made.low, made.high = np.clip([made.low, made.high], *unit.limits).tolist()
        made.seen = round(made.seen * (_ratio(sources[0], value) or 1.0)) if unit.passes_codes else made.seen
        seen[value] = made


def _ratio(source: Value, value: Value) -> float | None:
    """Elements of `value` for one of `source`; None where open sizes leave that open."""
    first, second = _elements(source), _elements(value)
    if first is None or second is None or first[1] != second[1] or not first[0]:
        return None
    return second[0] / first[0]


def _elements(value: Value) -> tuple[int, list[str]] | None:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    if shape is None or any(d is None for d in shape):
        return None
    return prod(d for d in shape if isinstance(d, int)), sorted(str(d) for d in shape if not isinstance(d, int))
