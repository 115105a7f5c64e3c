"""What accuracy can be had for next to no time: units that harm, but hardly gain, return to float.

A guard stops at its floor, and a minimum cut by time alone keeps whatever gains a microsecond. Here a unit's error has
a price in seconds, the highest at which the cheapest placement takes hardly longer (the Lagrangian of the most faithful
placement within that time). On basic-pitch four small layers make nearly all of the error: without them 20.5 dB become
38.8 in the same time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from ....measure import figures
from ..candidates.assignment import Plan
from ..candidates.calibrated_model import Study
from ..candidates.units import Unit, useful
from ..emit.qdq import build
from .cost_model import measure_costs
from .min_cut import Costs, cheapest

SLOWER = 1.01
"""What the time may grow to: half of what counts as faster at all."""
LARGER = 1.02
"""What the stored constants may grow to: weights are quantized for their size, too."""
STEPS, SPAN = 16, 2.0**16
"""Prices tried, by bisection of their logarithm, and how far they reach around that at which time and error balance."""


def more_faithful(studied: Study, plan: Plan) -> Plan | None:
    """The plan with as little error as `SLOWER` times its time buys; None where nothing is to be had.

    Errors are those of each unit alone, in the model's results; where they were not measured there is nothing to go by.
    """
    harm = {unit: studied.alone[unit] ** 2 for unit in plan.units if unit in studied.alone}  # powers of errors add
    if plan.options.mode != "static" or not any(harm.values()) or math.inf in harm.values():
        return None
    costs = measure_costs(studied.plan, studied.feed, studied.shapes)
    chosen = _within(plan, costs, harm, SLOWER * costs.total(plan.units, plan.units))
    made = plan.with_units(chosen)
    if chosen == plan.units or figures(build(made)).constant_bytes > LARGER * figures(build(plan)).constant_bytes:
        return None
    return made


def _within(plan: Plan, costs: Costs, harm: Mapping[Unit, float], limit: float) -> frozenset[Unit]:
    """The units left on integers at the highest price of harm at which all take at most `limit` seconds."""
    balance = limit / sum(harm.values())
    low, high, best = balance / SPAN, balance * SPAN, plan.units
    for _ in range(STEPS):
        price = math.sqrt(low * high)
        priced = {unit: seconds + price * harm.get(unit, 0.0) for unit, seconds in costs.as_codes.items()}
        chosen = useful(cheapest(plan.units, replace(costs, as_codes=priced)))
        if chosen and costs.total(plan.units, chosen) <= limit:
            low, best = price, chosen
        else:
            high = price
    return best
