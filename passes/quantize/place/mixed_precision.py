"""Mixed precision: units that cost much accuracy and gain hardly any time return to float.

The accuracy guard stops at its floor, and a minimum cut by time alone keeps whatever gains a microsecond. Here a unit's
error has a price in seconds, the highest at which the cheapest placement takes hardly longer (the Lagrangian of the
most faithful placement within that time). On basic-pitch four small layers cause nearly all of the error: without them
20.5 dB become 38.8 in the same time (`python -m tests.bench.zoo_int8 basic-pitch`).
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
"""The most that the estimated time may grow: half of the gain that counts as faster at all (`GAIN`)."""
LARGER = 1.02
"""The most that stored constants may grow: weights are quantized for their size, too. As small as the time's limit."""
REFIT_SLOWER, REFIT_LARGER = 1.05, 1.2
"""The same where layers are refitted, which is asked for accuracy's sake: of what integers gain a twentieth of the time
and a fifth of the size. Choices."""
STEPS, SPAN = 16, 2.0**16
"""Prices tried by bisection of their logarithm, and their reach around the price that balances time and error: the last
step is a factor of 2^(32 / 2^16), far finer than measured times."""


def with_mixed_precision(
    calibrated: CalibratedModel, assignment: Assignment, errors: Mapping[Unit, float]
) -> Assignment | None:
    """The assignment with as little error as `SLOWER` times its time buys, or `REFIT_SLOWER` times; None where no unit
    can return to float.

    errors: of the model's results with one unit alone quantized, as far as they were measured.
    """
    harm = {unit: errors[unit] ** 2 for unit in assignment.units if unit in errors}  # powers of errors add
    if assignment.options.mode != "static" or not any(harm.values()) or math.inf in harm.values():
        return None
    slower, larger = (REFIT_SLOWER, REFIT_LARGER) if assignment.options.refits else (SLOWER, LARGER)
    costs = measure_costs(calibrated.assignment, calibrated.feed, calibrated.shapes)
    seconds = slower * costs.total(assignment.units, assignment.units)
    chosen = _within(assignment, costs, harm, seconds, (larger - 1.0) * stored_bytes(assignment))
    return None if chosen == assignment.units else assignment.with_units(chosen)


def stored_bytes(assignment: Assignment) -> int:
    """Bytes of all constants of its model."""
    return figures(build(assignment)).constant_bytes


def _within(
    assignment: Assignment, costs: Costs, harm: Mapping[Unit, float], seconds: float, more_bytes: float
) -> frozenset[Unit]:
    """The units left on integers at the highest price of harm at which all take at most so many seconds, and weights
    that are floats again at most so many bytes more."""
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
