"""Fewer than 8 bits, all layers: points lost on Fashion-MNIST and on WordSim353, beside rounding to the nearest.

    python -m tests.bench.below8 [--data DIR] [--minilm DIR] [--seeds 3] [--learned]

The reference CNN and the MobileNetV2-like net of models/, on 512 unlabelled images drawn again by each seed (with
repetition, so that seeds differ) and the test images, all 10,000 with --data (the folder of the idx.gz files). Also
MiniLM by Spearman with --minilm (its folder, see `tests.bench.minilm_int8`). Gap: the share of what rounding
to the nearest loses that is won back. --learned adds rounding learnt by gradients.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from graphopt.measure import ort_session
from models import fashion
from tests.bench.fashion_int8 import images, logits

NETS = {
    "fashion_cnn": (("int4", "uint8"), ("int3", "uint8"), ("int2", "uint8"), ("int4", "uint4")),
    "fashion_mobilenet": (("int4", "uint8"), ("int4", "uint4")),
}
"""Widths of weights and activations by net."""
ROUNDINGS: dict[str, dict[str, Any]] = {
    "nearest": {"rounding": False, "correct_bias": False},
    "closed form": {"rounding": "refit"},
    "learned": {"rounding": "learned"},
}
SAMPLES = 512


def quantized(path: Path, data: Any, seed: int, weight: str, activation: str, rounding: str) -> tuple[bytes, float]:
    """The quantized file, every layer on integers, and the seconds of processor time that it took."""
    options = graphopt.Quantize(
        "static", weight_type=weight, activation_type=activation, min_sqnr=-np.inf, min_top1=0, **ROUNDINGS[rounding]
    )
    start = time.process_time()
    result = graphopt.optimize(path, calibration=data, quantize=options, seed=seed, validate=False)
    rows = result.report.stages[0].rows
    assert rows and {row[2] for row in rows} == {"int8"}
    return result.model.SerializeToString(), time.process_time() - start


def figures(
    path: Path, draw: Callable[[int], Any], score: Callable[[Any], float], widths: tuple[tuple[str, str], ...],
    roundings: list[str], seeds: int,
) -> Iterator[tuple[str, str, float, float, float]]:  # fmt: skip
    """(widths, rounding, mean loss, worst loss, seconds) of a model."""
    base = score(str(path))
    for weight, activation in widths:
        for rounding in roundings:
            losses, times = [], []
            for seed in range(seeds):
                blob, seconds = quantized(path, draw(seed), seed, weight, activation, rounding)
                losses.append(base - score(blob))
                times.append(seconds)
            label = f"W{weight[3:]}A{8 if activation == 'uint8' else 4}"
            yield label, rounding, float(np.mean(losses)), max(losses), float(np.mean(times))


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learned", action="store_true")
    given = parser.parse_args()
    roundings = [name for name in ROUNDINGS if name != "learned" or given.learned]
    x, labels = images(given.data)
    with np.load(fashion.FOLDER / "fashion_calibration.npz") as archive:
        pool = archive["image"]

    def draw(seed: int) -> dict[str, Any]:
        return {"image": pool[np.random.default_rng(seed).choice(len(pool), SAMPLES)]}

    def points(model: Any) -> float:
        return 100 * float((logits(model, x).argmax(1) == labels).mean())

    cases = [(fashion.FOLDER / f"{name}.onnx", draw, points, widths) for name, widths in NETS.items()]
    if given.minilm is not None:
        from tests.bench.minilm_int8 import Encoder, correlation, exported, texts

        encode = Encoder(given.minilm)

        def spearman(model: Any) -> float:
            return correlation(ort_session(model, threads=0), encode)

        cases.append((exported(given.minilm), lambda seed: texts(encode, seed, 64), spearman, (("int4", "uint8"),)))
    table = Table(box=None)
    for heading in ("model", "widths", "rounding", "lost", "worst seed", "gap", "CPU s"):
        table.add_column(heading, justify="left" if heading in ("model", "widths", "rounding") else "right")
    for path, draws, score, widths in cases:
        nearest: dict[str, float] = {}
        for label, rounding, mean, worst, seconds in figures(path, draws, score, widths, roundings, given.seeds):
            nearest.setdefault(label, mean)
            gap = f"{1 - mean / nearest[label]:.0%}" if rounding != "nearest" and nearest[label] > 0 else ""
            table.add_row(path.stem, label, rounding, f"{mean:.4f}", f"{worst:.4f}", gap, f"{seconds:.0f}")
            Console(width=100).print(f"{path.stem} {label} {rounding}: {mean:.4f} {gap}", highlight=False)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
