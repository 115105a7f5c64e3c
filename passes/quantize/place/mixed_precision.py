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
STEPS, SPAN = 16, 2.0**16
"""Prices tried by bisection of their logarithm, and their reach around the price that balances time and error: the last
step is a factor of 2^(32 / 2^16), far finer than measured times."""


def with_mixed_precision(
    calibrated: CalibratedModel, assignment: Assignment, errors: Mapping[Unit, float]
) -> Assignment | None:
    """The assignment with as little error as `SLOWER` times its time buys; None where no unit can return to float.

    errors: of the model's results with one unit alone quantized, as far as they were measured.
    """
    harm = {unit: errors[unit] ** 2 for unit in assignment.units if unit in errors}  # powers of errors add
    if assignment.options.mode != "static" or not any(harm.values()) or math.inf in harm.values():
        return None
    costs = measure_costs(calibrated.assignment, calibrated.feed, calibrated.shapes)
    chosen = _within(assignment, costs, harm, SLOWER * costs.total(assignment.units, assignment.units))
    mixed = assignment.with_units(chosen)
    if chosen == assignment.units or stored_bytes(mixed) > LARGER * stored_bytes(assignment):
        return None
    return mixed


def stored_bytes(assignment: Assignment) -> int:
    """Bytes of all constants of its model."""
    return figures(build(assignment)).constant_bytes


def _within(assignment: Assignment, costs: Costs, harm: Mapping[Unit, float], limit: float) -> frozenset[Unit]:
    """The units left on integers at the highest price of harm at which all take at most `limit` seconds."""
    balance = limit / sum(harm.values())
    low, high, best = balance / SPAN, balance * SPAN, assignment.units
    for _ in range(STEPS):
        price = math.sqrt(low * high)
        priced = {unit: seconds + price * harm.get(unit, 0.0) for unit, seconds in costs.as_codes.items()}
        chosen = useful(cheapest(assignment.units, replace(costs, as_codes=priced)))
        if chosen and costs.total(assignment.units, chosen) <= limit:
            low, best = price, chosen
        else:
            high = price
    return best
