"""Refit a calibrated model to its quantized inputs, where the options ask for it and its results come closer."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from ....compress.context import StageContext
from ..candidates.calibrated_model import CalibratedModel
from ..candidates.units import useful
from ..emit.qdq import build
from .closed_form import refit
from .learned import learn


def with_refit(calibrated: CalibratedModel, context: StageContext) -> CalibratedModel:
    """The calibrated model with layers refitted one by one; unchanged where results do not come closer.

    Made-up inputs permit no refit.
    """
    options = calibrated.options
    if not options.refits or context.calibration.is_synthetic:
        return calibrated
    feeds = list(islice(iter(context.calibration), options.samples))
    before = calibrated.assignment.with_units(useful(calibrated.assignment.units))
    after = (learn if options.rounding == "learned" else refit)(before, context, feeds)
    old, new = (context.quality.fidelity(build(assignment)).sqnr_db for assignment in (before, after))
    if new <= old:
        return calibrated
    return replace(calibrated, assignment=replace(calibrated.assignment, codes=after.codes, narrow=after.narrow))
