"""Latency of the optimised model beside the original: `python -m tests.bench.latency [--target T] [names]`.

One thread, all of onnxruntime's optimizations on, interleaved; the ratio is original time / optimised time, paired.
"""

from __future__ import annotations

import argparse

import graphopt
from graphopt.measure import compare_latency, geometric_mean, ort_session
from tests import zoo


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--target", default="portable")
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    table = Table(box=None)
    for heading in ("model", "status", "original ms", "optimised ms", "speed"):
        table.add_column(heading, justify="left" if heading in ("model", "status") else "right")
    ratios = []
    for name in arguments.names or zoo.names():
        path = zoo.path(name)
        if path is None:
            continue
        result = graphopt.optimize(path, target=arguments.target)
        sessions = {
            "original": ort_session(str(path)),
            "optimised": ort_session(result.model.SerializeToString()),
        }
        base, ours = compare_latency(sessions, zoo.feeds(name), seconds=arguments.seconds)
        ratios.append(ours.ratio)
        table.add_row(
            name, result.report.status, f"{base.median * 1e3:.3f}", f"{ours.median * 1e3:.3f}", f"{ours.ratio:.3f}"
        )
    table.add_row("geometric mean", "", "", "", f"{geometric_mean(ratios):.3f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
