"""Choose the calibration method of a model: each is tried on the whole, since later layers may need clipped values."""

from __future__ import annotations

from dataclasses import replace

from ....compress.context import StageContext
from ..candidates.calibrated_model import CalibratedModel
from ..candidates.units import useful
from ..emit.qdq import build


def with_best_method(calibrated: CalibratedModel, context: StageContext) -> CalibratedModel:
    """The calibrated model with the grids of the method whose results are closest to the reference's.

    Closest is the highest SQNR on the calibration data, with all useful units on integers; the first of equals.
    """
    if len(calibrated.grids) < 2:
        return calibrated
    fidelity: dict[str, float] = {}
    useful_units = calibrated.assignment.with_units(useful(calibrated.assignment.units))
    models = (build(replace(useful_units, grids=grids)) for grids in calibrated.grids.values())
    found = context.quality.fidelities(models, executor=context.candidates_executor)
    for method, one in zip(calibrated.grids, found):
        fidelity[method] = one.sqnr_db
        context.tell(f"ranges by {method}", len(fidelity) / len(calibrated.grids))
    method = max(fidelity, key=fidelity.__getitem__)
    options = replace(calibrated.options, calibrate_method=method)
    assignment = replace(calibrated.assignment, grids=calibrated.grids[method], options=options)
    return replace(calibrated, assignment=assignment, options=options)
