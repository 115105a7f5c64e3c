"""Mixed precision: units that lose much accuracy and gain hardly any time return to float.

The accuracy guard stops at its floor, and a minimum cut by time alone keeps every unit that gains a microsecond. Here a
unit's error has a price in seconds, the highest at which the cheapest placement takes hardly longer (the Lagrangian of
the most accurate placement within that time). On basic-pitch four small layers cause nearly all of the error: without
them SQNR rises from 20.5 to 38.8 dB in the same time (`python -m tests.bench.zoo_int8 basic-pitch`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from ....measure import figures
from ..candidates.assignment import Assignment
from ..candidates.calibrated_model import CalibratedModel
from ..candidates.units import Unit, useful
from ..emit.qdq import build
from .cost_model import measure_costs
from .min_cut import Costs, cheapest

SLOWER = 1.01
"""The largest growth of the estimated time: half of the gain that counts as faster (`GAIN`)."""
LARGER = 1.02
"""The largest growth of stored constants: weights are quantized for size, too. As small as the gain's limit."""
REFIT_SLOWER, REFIT_LARGER = 1.05, 1.2
"""The same limits where layers are refitted, which serves accuracy: a twentieth of the time and a fifth of the size.
Choices."""
STEPS, SPAN = 16, 2.0**16
"""Prices tried by bisection of their logarithm, and their reach around the price that balances time and error: the last
step is a factor of 2^(32 / 2^16), far finer than measured times."""


def with_mixed_precision(
    calibrated: CalibratedModel, assignment: Assignment, errors: Mapping[Unit, float]
) -> Assignment | None:
    """The assignment of least error within `SLOWER` times its time, or `REFIT_SLOWER` times; None where no unit returns
    to float.

    errors: of the model's results with one unit alone quantized, where measured.
    """
    harm = {unit: errors[unit] ** 2 for unit in assignment.units if unit in errors}  # squared errors add up
    if assignment.options.mode != "static" or not any(harm.values()) or math.inf in harm.values():
        return None
    slower, larger = (REFIT_SLOWER, REFIT_LARGER) if assignment.options.refits else (SLOWER, LARGER)
    costs = measure_costs(calibrated.assignment, calibrated.feed, calibrated.shapes)
    seconds = slower * costs.total(assignment.units, assignment.units)
    chosen = _within(assignment, costs, harm, seconds, (larger - 1.0) * stored_bytes(assignment))
    return None if chosen == assignment.units else assignment.with_units(chosen)


def stored_bytes(assignment: Assignment) -> int:
    """Bytes of all constants in the assignment's model."""
    return figures(build(assignment)).constant_bytes


def _within(
    assignment: Assignment, costs: Costs, harm: Mapping[Unit, float], seconds: float, more_bytes: float
) -> frozenset[Unit]:
    """The units left on integers at the highest price of harm at which the model takes at most `seconds`, and weights
    returned to float add at most `more_bytes`."""
    balance = seconds / sum(harm.values())
    low, high, best = balance / SPAN, balance * SPAN, assignment.units
    held = {u: u.layer.constant.size * (4 - assignment.codes[u.node].bits / 8) for u in best if u.linear is not None}
    for _ in range(STEPS):
        price = math.sqrt(low * high)
        priced = {unit: took + price * harm.get(unit, 0.0) for unit, took in costs.as_codes.items()}
        chosen = useful(cheapest(assignment.units, replace(costs, as_codes=priced)))
        fits = sum(held.get(unit, 0) for unit in assignment.units - chosen) <= more_bytes
        if chosen and fits and costs.total(assignment.units, chosen) <= seconds:
            low, best = price, chosen
        else:
            high = price
    return best
