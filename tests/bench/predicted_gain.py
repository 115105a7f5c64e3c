"""Predicted beside measured speeds of int8 models: `python -m tests.bench.predicted_gain MODEL.onnx …`.

For each model and mode the ratio of float to int8 in onnxruntime on one thread, by the table of rates that decides
where no measured time is clear, and by interleaved runs, with its standard error. `PREDICTED_GAIN` in
`passes/quantize/place/latency_guard.py` is chosen by these rows.
Samples are read from MODEL.npz, if it exists (one sample), else made up.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import graphopt
from graphopt.compress.speed import predicted
from graphopt.equivalence.synthesis import synthesise
from graphopt.errors import GraphoptError
from graphopt.measure import compare_latency, ort_session, own_clock


def main() -> None:
    """Print a row for each model and mode in which something is quantized."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=0.5, help="for which each model is timed")
    given = parser.parse_args()
    print(f"{'model':32} {'mode':8} {'predicted':>9} {'measured':>9} {'error':>6}")
    for path in given.models:
        data = path.with_suffix(".npz")
        samples = [dict(np.load(data))] if data.exists() else "synthetic"
        for mode in ("static", "dynamic"):
            options = graphopt.Quantize(mode=mode, speed=False, min_sqnr=-np.inf, min_top1=0)
            try:
                before = graphopt.optimize(path, validate=False)
                after = graphopt.optimize(path, quantize=options, calibration=samples, validate=False)
            except GraphoptError as error:
                print(f"{path.stem:32} {mode:8} {error}")
                continue
            if not after.report.stages[0].changed:
                continue
            feeds = samples[0] if isinstance(samples, list) else synthesise(path, 1)[0]
            foretold = predicted(before.ir, feeds, "portable") / predicted(after.ir, feeds, "portable")
            sessions = {"float": ort_session(before.ir), "int8": ort_session(after.ir)}
            _, timing = compare_latency(sessions, feeds, seconds=given.seconds, clock=own_clock())
            print(f"{path.stem:32} {mode:8} {foretold:9.2f} {timing.ratio:9.2f} {timing.error:6.1%}", flush=True)


if __name__ == "__main__":
    main()
