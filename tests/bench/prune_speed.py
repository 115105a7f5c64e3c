"""Speed of pruned models, and the run time of pruning. `python -m tests.bench.prune_speed [WHAT] [NAME …]`

speed: zoo models without half of their channels; the original's latency over the pruned model's, interleaved. fashion:
30 % of the channels pruned, int8, and both, against the original, with accuracies.
time: groups of densenet121, groups of chains of many lengths, and ResNet50 with refitting on 64 samples, by each
importance or those named.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import graphopt
from graphopt import onnx_io
from graphopt.analysis.channels import find_channels
from graphopt.calibration import open_calibration
from graphopt.ir import Model
from graphopt.measure import compare_latency, geometric_mean, ort_session
from graphopt.passes.prune import Prune
from graphopt.passes.prune.best_way import prune_model
from models import fashion
from tests import generators, zoo
from tests.bench.prune_fashion import MODEL, Accuracy, stored
from tests.feeds import images


def speed(names: list[str]) -> None:
    ratios = []
    print(f"{'model':20} original / pruned")
    for name in names or zoo.names():
        path = zoo.path(name)
        if path is None:
            continue
        base = graphopt.optimize(path, validate=False).ir
        options = Prune(ratio=0.5, importance="l2", global_ranking=False, recover=False)
        halved = prune_model(base, options, 0.5, [])
        pruned = graphopt.optimize(onnx_io.to_proto(halved.model), validate=False).ir
        sessions = {"original": ort_session(stored(base)), "pruned": ort_session(stored(pruned))}
        ratio = compare_latency(sessions, zoo.feeds(name), seconds=2.0)[1].ratio
        ratios.append(ratio)
        print(f"{name:20} {ratio:6.2f}", flush=True)
    print(f"{'geometric mean':20} {geometric_mean(ratios):6.2f}")


def compare_fashion() -> None:
    accuracy = Accuracy()
    with np.load(fashion.FOLDER / "fashion_calibration.npz") as archive:
        data = {"image": archive["image"]}
    variants = {
        "float": {},
        "pruned 30 %": {"prune": Prune(ratio=0.3, global_ranking=False)},
        "int8": {"quantize": "static"},
        "pruned and int8": {"prune": Prune(ratio=0.3, global_ranking=False), "quantize": "static"},
    }
    models = {}
    for name, compression in variants.items():
        models[name] = graphopt.optimize(MODEL, calibration=data, **compression).model.SerializeToString()
    sessions = {name: ort_session(model) for name, model in models.items()}
    timings = compare_latency(sessions, {"image": data["image"][:1]}, seconds=3.0)
    for timing in timings:
        model = models[timing.label]
        print(
            f"{timing.label:16} {timing.ratio:5.2f}x  {accuracy.change(model):+6.2f} points  {len(model) / 1e3:6.0f} KB"
        )


def times(importances: list[str]) -> None:
    path = zoo.path("light-densenet121")
    if path is not None:
        model = onnx_io.load(path)
        print(f"groups of densenet121 ({len(model.graph)} nodes): {_seconds(lambda: find_channels(model)):.3f} s")
    for count in (1_000, 2_000, 4_000, 8_000):
        chain = onnx_io.load(generators.chain(count))
        each = _seconds(lambda chain=chain: find_channels(chain)) / count  # type: ignore[misc]
        print(f"groups of a chain of {count} nodes: {1e6 * each:.0f} us a node")
    path = zoo.path("light-resnet50")
    if path is None:
        return
    base: Model = graphopt.optimize(path, validate=False).ir
    rng = np.random.default_rng(0)
    feeds = open_calibration([{"gpu_0/data_0": images(rng, 1, 3, 224, 224)} for _ in range(64)], base)
    for importance in importances or ("l2", "reconstruction", "hessian"):
        options = Prune(ratio=0.5, importance=importance, global_ranking=False)
        start, busy = time.perf_counter(), time.process_time()
        halved = prune_model(base, options, 0.5, feeds)
        taken, busy = time.perf_counter() - start, time.process_time() - busy
        worst = max((refit.after for refit in halved.recovery.refits), default=0.0)
        cost = f"{taken:.1f} s ({busy:.1f} s of processor time)"
        layers = f"{len(halved.recovery.refits)} layers, error {worst:.3f}"
        print(f"ResNet50, {importance}, refit on 64 samples: {cost}, {layers}")


def _seconds(run) -> float:  # type: ignore[no-untyped-def]
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    what = sys.argv[1] if len(sys.argv) > 1 else "all"
    if what in ("time", "all"):
        times(sys.argv[2:])
    if what in ("speed", "all"):
        speed(sys.argv[2:])
    if what in ("fashion", "all"):
        compare_fashion()


if __name__ == "__main__":
    main()
