"""Tables in mode dynamic: stored as codes only where that hardly adds to the error of integer products."""

from __future__ import annotations

from dataclasses import replace

from ....compress.context import StageContext
from ..candidates.calibrated_model import CalibratedModel
from ..candidates.units import Unit, Units, useful
from ..emit.qdq import build
from .accuracy_guard import is_free

HARM = 1.0
"""The largest loss of the results' SQNR, in dB, by codes of tables: their noise is then a quarter of the products'
noise (10^0.1 = 1.26). Untrained BERTs lose 4 to 25 dB, since their results are nearly the table's rows. Not tuned."""


def with_harmless_tables(calibrated: CalibratedModel, context: StageContext) -> CalibratedModel:
    """The calibrated model without tables whose codes cost more than `HARM`, in mode "dynamic", which is for speed.

    Tables tied to a head stay, since a float table would be stored beside the head's codes; so do all tables where
    there are no products on integers, or no requirement on results. Opens a session per table.
    """
    options, units = calibrated.options, calibrated.assignment.units
    order, heads = calibrated.assignment.order, calibrated.assignment.shared.heads
    tables = [u for u in sorted(units, key=order.__getitem__) if u.is_table and u.node not in heads]
    rest = units - frozenset(tables)
    if options.mode != "dynamic" or not tables or not rest or is_free(options, context):
        return calibrated

    def sqnr(chosen: frozenset[Unit]) -> float:
        return context.quality.fidelity(build(calibrated.assignment.with_units(useful(chosen)))).sqnr_db

    least = sqnr(rest) - HARM
    if sqnr(units) >= least:
        return calibrated
    kept = rest
    for table in sorted(tables, key=lambda u: -u.layer.constant.nbytes) if len(tables) > 1 else ():
        if sqnr(kept | {table}) >= least:
            kept |= {table}
    left = tuple(
        (u.name, f"its codes would cost more than {HARM:g} dB of the results") for u in tables if u not in kept
    )
    found = Units(calibrated.units.members, (*calibrated.units.refused, *left))
    return replace(calibrated, units=found, assignment=calibrated.assignment.with_units(kept))
