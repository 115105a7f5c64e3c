"""Which way to find ranges suits a model: each is tried on the whole, since what a layer clips others may need."""

from __future__ import annotations

from dataclasses import replace

from ....compress.context import StageContext
from ..candidates.calibrated_model import Study
from ..candidates.units import useful
from ..emit.qdq import build


def best_method(studied: Study, context: StageContext) -> Study:
    """The study with the grids, of those it has by method, under which results are closest to the reference's.

    Judged by the SQNR of results on the calibration data, with everything on integers that may be; the first of equals.
    """
    if len(studied.grids) < 2:
        return studied
    found: dict[str, float] = {}
    for method, grids in studied.grids.items():
        context.tell(f"ranges by {method}", len(found) / len(studied.grids))
        plan = replace(studied.plan, grids=grids)
        found[method] = context.quality.fidelity(build(plan.with_units(useful(plan.units)))).sqnr_db
    method = max(found, key=found.__getitem__)
    options = replace(studied.options, calibrate_method=method)
    plan = replace(studied.plan, grids=studied.grids[method], options=options)
    return replace(studied, plan=plan, options=options)
