"""Int8 of the light architectures (He weights: speed only) beside the best of onnxruntime's six settings.

`python -m tests.bench.light_int8 [names]`. Speed is float time / int8 time in stock onnxruntime, one thread, all models
of a row timed interleaved. Weights are random, so the floor on fidelity is off.
"""

from __future__ import annotations

import argparse
import time

import graphopt
from graphopt.measure import compare_latency, ort_session
from tests import zoo
from tests.bench.ort_int8 import variants

NAMES = (
    "light-resnet50", "light-squeezenet", "light-inception_v1", "light-densenet121", "light-shufflenet",
    "mobilenetv2-like",
)  # fmt: skip


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounding", action="store_true")
    arguments = parser.parse_args()
    table = Table(box=None)
    for heading in ("model", "graphopt", "its best", "which", "its default", "MACs in int8", "seconds", "SQNR"):
        table.add_column(heading, justify="left" if heading in ("model", "which") else "right")
    for name in arguments.names:
        path = zoo.path(name)
        if path is None:
            continue
        feeds = [zoo.feeds(name, seed) for seed in range(arguments.samples)]
        options = graphopt.Quantize(min_sqnr=-100, min_top1=0, rounding=arguments.rounding)
        start = time.perf_counter()
        result = graphopt.optimize(path, quantize=options, calibration=feeds, validate=False)
        took = time.perf_counter() - start
        sessions = {"float": ort_session(str(path)), "graphopt": ort_session(result.model.SerializeToString())}
        for setting, target in variants(name, path, feeds).items():
            try:
                sessions[setting] = ort_session(str(target))
                sessions[setting].run(None, feeds[0])
            except Exception:  # a rival's file that onnxruntime cannot run is no rival
                sessions.pop(setting, None)
        ratios = {t.label: t.ratio for t in compare_latency(sessions, feeds[0], seconds=arguments.seconds)}
        rivals = {k: v for k, v in ratios.items() if k not in ("float", "graphopt")}
        best = max(rivals, key=lambda k: rivals[k], default="")
        stage = result.report.stages[0]
        table.add_row(
            name, f"{ratios['graphopt']:.2f}", f"{rivals.get(best, 0):.2f}", best, f"{rivals.get('s8s8', 0):.2f}",
            f"{(stage.figures or {}).get('share_of_macs', 0):.0%}", f"{took:.0f}",
            stage.summary.rpartition("SQNR")[2][:9],
        )  # fmt: skip
        Console(width=130).print(table)


if __name__ == "__main__":
    main()
