"""Pruning and distillation of a Fashion-MNIST classifier: `python -m tests.bench.distillation [--seeds 0 1 2]`

Pruning sees 512 unlabelled images, distillation as many, or --images of the training images. Points of top-1 on the
10,000 test images (Debian's dataset-fashion-mnist, or --data FOLDER), on the 2,000 committed ones without it. Rows:
pruning with closed-form refits, also with channels exchanged between layers; then distillation without labels; then
fine-tuning with 512 other, labelled images; by share of channels and by budget of multiply-accumulates. --ways only
prunes, in every available way, towards the same budgets. --model mobilenet uses the MobileNetV2-like net. --sweep tries
options on 70 %.
"""

from __future__ import annotations

import argparse
import gzip
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import graphopt
from graphopt.calibration import open_calibration
from graphopt.distillation import Distil, distil
from graphopt.ir import Model
from graphopt.measure import figures, ort_session
from graphopt.passes.prune import Prune, affordable
from graphopt.passes.prune.best_way import prune_model
from graphopt.passes.prune.select.costs import cost_of_nodes
from models import fashion

MODELS = {"cnn": fashion.FOLDER / "fashion_cnn.onnx", "mobilenet": fashion.FOLDER / "fashion_mobilenet.onnx"}
DATA = Path("/usr/share/datasets/fashion-mnist")
COMMITTED = 512
CHANNELS, BUDGETS = (0.3, 0.5, 0.7), (1 / 2, 1 / 3)
SWEEP = (
    {}, {"batch_size": 64}, {"mixing": 0.0}, {"mixing": 1.0, "patches": 0.0}, {"patches": 0.0},
    {"mirrors": False}, {"shifts": False},
    {"inner": True},
    {"loss": "mse"}, {"learning_rate": 2e-4}, {"learning_rate": 1e-3}, {"learning_rate": 4e-3},
)  # fmt: skip
WAYS = (
    {}, {"importance": "reconstruction"}, {"importance": "reconstruction", "iterative_steps": 4},
    {"importance": "fisher"}, {"importance": "fisher", "iterative_steps": 4},
    {"importance": "fisher", "iterative_steps": 8},
    {"importance": "hessian", "iterative_steps": 4}, {"importance": "hessian", "global_ranking": False},
    {"importance": "hessian", "iterative_steps": 4, "global_ranking": False},
)  # fmt: skip


def test_data(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All test images where the data set is there, else the committed ones."""
    if not folder.is_dir():
        return fashion.load("test")
    images, labels = (
        np.frombuffer(gzip.decompress((folder / f"t10k-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for kind, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return fashion.normalise(images.reshape(-1, 28, 28)), labels.astype(np.int64)


def unlabelled_data(folder: Path, count: int) -> np.ndarray:
    """The committed images, or so many training images drawn by a seed."""
    with np.load(fashion.FOLDER / "fashion_calibration.npz") as archive:
        committed: np.ndarray = archive["image"]
    if count <= len(committed):
        return committed[:count]
    data = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    images = np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28)
    return fashion.normalise(images[np.random.default_rng(5).permutation(len(images))[:count]])


class Bench:
    """The model, its data, and the rows that are printed. samples: what students learn from."""

    def __init__(self, model: Path, folder: Path, options: Distil, count: int) -> None:
        self.images, self.labels = test_data(folder)
        self.base = graphopt.optimize(model, validate=False).ir
        self.unlabelled = {"image": unlabelled_data(folder, COMMITTED)}
        self.samples = {"image": unlabelled_data(folder, count)}
        images, labels = fashion.load("holdout")
        count = len(self.unlabelled["image"])
        self.labelled = images[:count], labels[:count]
        self.options = options
        self.points = self.accuracy(self.base)

    def accuracy(self, model: Model) -> float:
        return 100 * fashion.top1(ort_session(model), self.images, self.labels)

    def pruned(self, options: Prune) -> Model:
        feeds = open_calibration(self.unlabelled, self.base)
        if options.target is None:
            return prune_model(self.base, options, options.ratio, feeds).model
        kind, left = options.target
        costs = cost_of_nodes(kind, self.base, feeds.first(1)[0])
        return prune_model(self.base, options, 1 - left, feeds, costs=costs).model

    def row(self, title: str, options: Prune, seeds: list[int], with_labels: bool) -> None:
        """Points lost: closed form, each seed of distillation, with labels in its place."""
        start = time.process_time()
        student = self.pruned(options)
        _tell(f"{title:23} MACs {figures(student).macs / figures(self.base).macs:4.0%}")
        _tell(f"closed form {self.accuracy(student) - self.points:+6.2f} {time.process_time() - start:.0f} s")
        if seeds and options.exchange is None:
            start = time.process_time()
            student = self.pruned(replace(options, exchange=affordable(self.options)))
            _tell(f"exchanged {self.accuracy(student) - self.points:+6.2f} {time.process_time() - start:.0f} s")
        for seed in seeds:
            start = time.process_time()
            found = distil(student, self.base, self.samples, seed=seed, options=self.options)
            lost = self.accuracy(found.ir) - self.points
            _tell(f"seed {seed} {lost:+6.2f} {time.process_time() - start:.0f} s")
        if with_labels:
            images, labels = self.labelled
            start = time.process_time()
            tuned = distil(student, None, {"image": images}, labels=labels, options=self.options)
            lost = self.accuracy(tuned.ir) - self.points
            _tell(f"labels {lost:+6.2f} {time.process_time() - start:.0f} s")
        print(flush=True)


def _tell(part: str) -> None:
    """A part of a row, as soon as it is known."""
    print(part, end="  ", flush=True)


def main() -> None:
    """A row a way of pruning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--model", choices=MODELS, default="cnn")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--images", type=int, default=COMMITTED, help="unlabelled images to learn from")
    parser.add_argument("--ratios", type=float, nargs="*", default=CHANNELS)
    parser.add_argument("--budgets", type=float, nargs="*", default=BUDGETS)
    parser.add_argument("--labels", action="store_true", help="fine-tune with labels, too, from seed 0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--ways", action="store_true")
    arguments = parser.parse_args()
    options = Distil(threads=arguments.threads, steps=arguments.steps)
    bench = Bench(MODELS[arguments.model], arguments.data, options, arguments.images)
    print(f"original {bench.points:.2f} % of {len(bench.labels)} images; changes in points; seconds of the CPU")
    if arguments.sweep:
        for change in SWEEP:
            bench.options = replace(options, **change)
            bench.row(str(change), Prune(ratio=0.7), arguments.seeds, False)
        return
    if arguments.ways:
        for share in arguments.budgets:
            for way in WAYS:
                bench.row(f"MACs / {1 / share:.0f} {way}", Prune(macs=share, **way), [], False)
        return
    for ratio in arguments.ratios:
        bench.row(f"{ratio:.0%} of channels", Prune(ratio=ratio), arguments.seeds, arguments.labels)
    for share in arguments.budgets:
        bench.row(f"MACs / {1 / share:.0f}", Prune(macs=share), arguments.seeds, arguments.labels)


if __name__ == "__main__":
    main()
