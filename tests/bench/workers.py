"""CPU time of single-layer trials on two processes, against one: `python -m tests.bench.workers [MODEL …]`.

The efficiency is the serial CPU time over the CPU time of the main process and both workers together, as counted by the
system: equal to the efficiency in wall time on an idle machine of two cores, and hardly affected by other work on a
busy one. Starting processes is not counted: they serve the whole run. Linux alone.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import graphopt
from graphopt.compress.context import StageContext
from graphopt.compress.stages import session_maker, stage_context
from graphopt.measure import Quality
from graphopt.parallel.processes import ProcessWorkers
from graphopt.passes.quantize.candidates.calibrated_model import CalibratedModel, calibrate_model
from graphopt.passes.quantize.candidates.prepare import spell_for_integers
from graphopt.passes.quantize.candidates.upgrade import upgraded
from graphopt.passes.quantize.errors.single_unit_errors import SingleUnitErrors

MODELS = ("models/fashion_cnn.onnx", "models/fashion_mobilenet.onnx")
OPTIONS = graphopt.Quantize("static", rounding=False, correct_bias=False)
WARM = 8
"""Units that are tried first: each worker then has data and weights."""


def main() -> None:
    """Print a line for each model."""
    for path in sys.argv[1:] or MODELS:
        model = graphopt.optimize(path, validate=False).ir
        context = stage_context(model, "synthetic")
        quality = context.quality
        quality = Quality(quality.reference, session_maker("portable", threads=1), quality.feeds)
        context = replace(context, quality=quality)
        ready = spell_for_integers(upgraded(model, context), OPTIONS, "portable")
        calibrated = calibrate_model(ready, OPTIONS, context)
        units = [u for u in calibrated.units.members if u in calibrated.assignment.units and not u.passes_codes]
        _tried(calibrated, context, units[:WARM])
        serial = _tried(calibrated, context, units)
        with ProcessWorkers(2) as workers:
            away = replace(context, executor=workers)
            _tried(calibrated, away, units[:WARM])
            before = _seconds(workers)
            here = _tried(calibrated, away, units)
            there = _seconds(workers) - before
        print(
            f"{Path(path).stem:24} {len(units):4} units  serial {serial:6.2f} s  main {here:6.2f} s  "
            f"workers {there:6.2f} s  efficiency {serial / (here + there):.2f}", flush=True,
        )  # fmt: skip


def _tried(calibrated: CalibratedModel, context: StageContext, units: list) -> float:
    """Seconds of CPU that the main process takes to try each unit alone."""
    start = time.process_time()
    SingleUnitErrors(calibrated, context).measure(units)
    return time.process_time() - start


def _seconds(workers: ProcessWorkers) -> float:
    """Seconds of CPU of all workers so far."""
    total = 0
    for pid in workers._pool._processes or ():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])  # utime and stime, in ticks
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
