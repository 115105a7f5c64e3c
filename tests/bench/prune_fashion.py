"""Accuracy of the Fashion-MNIST CNN after pruning: every strategy at 10 … 70 % of the channels, with and without
recovery, beside onnxsim's pruning. `python -m tests.bench.prune_fashion [RATIO …]`

512 unlabelled calibration images; points of top-1 on the 10,000 test images (the Debian package dataset-fashion-mnist),
or on the 2,000 committed ones where it is not installed.
"""

from __future__ import annotations

import gzip
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import graphopt
from graphopt import onnx_io
from graphopt.calibration import Calibration, open_calibration
from graphopt.ir import Model
from graphopt.measure import figures, ort_session
from graphopt.passes.prune import Prune
from graphopt.passes.prune.best_way import prune_model
from models import fashion

MODEL = fashion.FOLDER / "fashion_cnn.onnx"
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
STRATEGIES = ("l1", "l2", "bn_scale", "activation", "reconstruction", "hessian", "taylor", "fisher", "random")
FULL = "/usr/share/datasets/fashion-mnist"


def test_data() -> tuple[np.ndarray, np.ndarray]:
    """All test images where the data set is installed, else the committed ones."""
    folder = Path(FULL)
    if not folder.is_dir():
        return fashion.load("test")
    images, labels = (
        np.frombuffer(gzip.decompress((folder / f"t10k-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for kind, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return fashion.normalise(images.reshape(-1, 28, 28)), labels.astype(np.int64)


class Accuracy:
    """Top-1 in points beside the original's."""

    def __init__(self) -> None:
        self.images, self.labels = test_data()
        self.base = self.points(MODEL.read_bytes())

    def points(self, model: bytes) -> float:
        return 100 * fashion.top1(ort_session(model, threads=0), self.images, self.labels)

    def change(self, model: bytes) -> float:
        return self.points(model) - self.base


def stored(model: Model) -> bytes:
    return bytes(onnx_io.to_proto(model).SerializeToString())


def onnxsim_row(base: Model, ratio: float, accuracy: Accuracy) -> str:
    """What onnxsim's own structured pruning of the same model (BatchNormalization folded) gives; it has no recovery of
    convolutions."""
    try:
        from onnxsim import apply_structured_pruning
    except ImportError:
        return f"{ratio:5.0%} onnxsim  absent"
    pruned = apply_structured_pruning(onnx_io.to_proto(base), sparsity=ratio)
    now, before = figures(onnx_io.load(pruned)), figures(base)
    return (
        f"{ratio:5.0%} onnxsim  {'l2':15} {accuracy.change(pruned.SerializeToString()):+8.2f} {'':8}  {'':7} "
        f"{now.parameters / before.parameters:7.0%} {now.macs / before.macs:5.0%}"
    )


def row(base: Model, options: Prune, ratio: float, feeds: Calibration, accuracy: Accuracy) -> str:
    plain = prune_model(base, replace(options, recover=False), ratio, feeds)
    full = prune_model(base, options, ratio, feeds)
    now, before = figures(full.model), figures(base)
    ranking = "global" if options.global_ranking else "uniform"
    return (
        f"{ratio:5.0%} {ranking:8} {options.importance!s:15} {accuracy.change(stored(plain.model)):+8.2f} "
        f"{accuracy.change(stored(full.model)):+8.2f}  {full.removed / full.total:7.0%} "
        f"{now.parameters / before.parameters:7.0%} {now.macs / before.macs:5.0%}"
    )


def main() -> None:
    accuracy = Accuracy()
    base = graphopt.optimize(MODEL, validate=False).ir
    with np.load(fashion.FOLDER / "fashion_calibration.npz") as archive:
        feeds = open_calibration({"image": archive["image"]}, base)
    print(f"original {accuracy.base:.2f} % of {len(accuracy.labels)} images; changes in points")
    print("ratio ranking  importance         alone recovered removed params  MACs")
    ratios = [float(text) for text in sys.argv[1:]] or RATIOS
    for ratio in ratios:
        print(onnxsim_row(base, ratio, accuracy), flush=True)
        for ranking in (False, True):
            for importance in STRATEGIES:
                options = Prune(ratio=ratio, round_to=1, importance=importance, global_ranking=ranking)
                print(row(base, options, ratio, feeds, accuracy), flush=True)


if __name__ == "__main__":
    main()
