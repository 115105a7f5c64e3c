"""Speed gained by our fusions on top of onnxruntime's own: `python -m tests.bench.fusion [names]`.

Both models run in onnxruntime with all its optimizations, on one thread, interleaved; the ratio is original time /
optimised time, paired. Nodes are compared with onnxruntime's own result at its extended level. Required: a geometric
mean of 1.05 or more, no model below 0.97.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import onnx
import onnxruntime

import graphopt
from graphopt.measure import compare_latency, geometric_mean, ort_session
from tests import zoo
from tests.bench.nodes import count

MEAN, FLOOR = 1.05, 0.97


def own_result(source: Path) -> int | None:
    """Nodes that onnxruntime itself leaves at the extended level; None where it cannot write them."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "own.onnx"
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        except Exception:  # onnxruntime's exceptions share no base
            return None
        return count(onnx.load(target).graph)


def main() -> int:
    """Print the table; returns how many of the wanted figures are missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--unchecked", action="store_true", help="skip the validation")
    arguments = parser.parse_args()
    print(
        f"{'model':28}{'status':>12}{'nodes':>7}{'own':>6}{'original ms':>13}{'optimised ms':>14}{'speed':>8}",
        flush=True,
    )
    ratios, larger = [], 0
    for name in arguments.names or zoo.names():
        path = zoo.path(name)
        if path is None:
            continue
        result = graphopt.optimize(path, target=arguments.target, validate=not arguments.unchecked)
        made = result.model.SerializeToString()
        sessions = {"original": ort_session(str(path)), "optimised": ort_session(made)}
        base, ours = compare_latency(sessions, zoo.feeds(name), seconds=arguments.seconds)
        ratios.append(ours.ratio)
        nodes, own = count(result.model.graph), own_result(path)
        larger += own is not None and nodes > own
        print(
            f"{name:28}{result.report.status:>12}{nodes:>7}{own or 'fails':>6}{base.median * 1e3:>13.3f}"
            f"{ours.median * 1e3:>14.3f}{ours.ratio:>8.3f}",
            flush=True,
        )
    mean, lowest = geometric_mean(ratios), min(ratios)
    print(
        f"geometric mean {mean:.3f}, lowest {lowest:.3f}, more nodes than onnxruntime's own result on {larger} models"
    )
    return (mean < MEAN) + (lowest < FLOOR) + (larger > 0)


if __name__ == "__main__":
    sys.exit(main())
