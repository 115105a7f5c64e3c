"""Predicted against measured losses: `python -m tests.bench.gradient_sensitivity [NAME …] [--samples N] [--part M]`.

Each weight of more than one axis is rounded alone, to 4 bits with a scale for each output channel. Measured: the
squared error of the results, by a session per weight and a run of all samples. Predicted:
`graphopt.gradient.predicted_losses` on the same model and a part of the samples, for all weights together. Prints
Spearman's rank correlation of both and the seconds of this thread that each took. The Fashion CNN and the
MobileNetV2-like net read Fashion-MNIST, the recognizer of the zoo and the transformer synthetic data.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.gradient import predicted_losses
from graphopt.gradient.differentiate import named_values
from graphopt.gradient.weights import learnt_weights
from graphopt.ir import Constant
from graphopt.measure import ort_session
from graphopt.onnx_io import load, to_proto
from tests.zoo import cache

MODELS = Path(__file__).resolve().parents[2] / "models"
BITS, SAMPLES, PART = 4, 512, 64
"""Bits of a rounded weight; samples that losses are measured on, all of the calibration data, and those of them that
predictions read."""

IDS, LENGTH = 64, 16
"""Tokens that the transformer's samples are drawn from, and how many each has."""


def feeds_of(path: Path, name: str, count: int) -> list[dict[str, Any]]:
    """Samples of one row."""
    rng = np.random.default_rng(0)
    session = ort_session(path)
    given = session.get_inputs()[0]
    if name in ("fashion_cnn", "fashion_mobilenet"):
        return [{given.name: image[None]} for image in np.load(MODELS / "fashion_calibration.npz")["image"][:count]]
    if name == "rapidocr-rec":
        return [{given.name: lines(rng)} for _ in range(count)]
    ids = [rng.integers(0, IDS, (1, LENGTH)) for _ in range(count)]
    fixed = {"attention_mask": np.ones((1, LENGTH), np.int64), "token_type_ids": np.zeros((1, LENGTH), np.int64)}
    return [{i.name: fixed.get(i.name, row) for i in session.get_inputs()} for row in ids]


def lines(rng: np.random.Generator) -> Any:
    """A picture f32[1, 3, 48, 160] of dark strokes on a light ground, as a line of text is."""
    page = np.full((48, 160), 0.9, np.float32)
    for _ in range(24):
        x, y = rng.integers(4, 150), rng.integers(8, 34)
        if rng.random() < 0.5:
            page[y : y + rng.integers(6, 14), x : x + 3] = 0.1
        else:
            page[y : y + 3, x : x + rng.integers(5, 10)] = 0.1
    page += 0.03 * rng.standard_normal(page.shape).astype(np.float32)
    return np.repeat(2 * page[None, None] - 1, 3, 1).astype(np.float32)


def rounding(w: Any, bits: int) -> Any:
    """What rounding with a scale for each first index changes."""
    scale = np.abs(w).max(axis=tuple(range(1, w.ndim)), keepdims=True) / (2 ** (bits - 1) - 1)
    scale[scale == 0] = 1
    return (np.round(w / scale) * scale - w).astype(np.float32)


def compared(name: str, path: Path, samples: int, part: int) -> tuple[int, float, float, float]:
    """Weights, Spearman's correlation, and the seconds of measuring and of predicting."""
    from scipy.stats import spearmanr

    feeds = feeds_of(path, name, samples)
    model = load(path)
    named = named_values(model)
    weights = {n: named[n] for n in sorted(learnt_weights(model))}
    arrays = {n: v.constant.array() for n, v in weights.items() if v.constant is not None}
    changes = {n: rounding(w, BITS) for n, w in arrays.items() if w.ndim > 1 and max(w.shape) > 1}
    changes = {n: d for n, d in changes.items() if np.any(d)}
    plain = ort_session(path)
    before = [plain.run(None, feed) for feed in feeds]
    start, measured = time.process_time(), []
    for n, change in changes.items():
        kept = weights[n].constant
        weights[n].constant = Constant.of(arrays[n] + change)
        session = ort_session(to_proto(model).SerializeToString())
        made = [session.run(None, feed) for feed in feeds]
        errors = [sum(float(np.square(y - x).sum()) for y, x in zip(ys, xs)) for ys, xs in zip(made, before)]
        measured.append(float(np.mean(errors)))
        weights[n].constant = kept
    middle = time.process_time()
    predicted = predicted_losses(path, feeds[:part], changes)
    end = time.process_time()
    rank = float(spearmanr([predicted[n] for n in changes], measured).statistic)
    return len(changes), rank, middle - start, end - middle


def main() -> None:
    """A row a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    paths = {
        "fashion_cnn": MODELS / "fashion_cnn.onnx", "fashion_mobilenet": MODELS / "fashion_mobilenet.onnx",
        "transformer_block": MODELS / "transformer_block.onnx", "rapidocr-rec": cache() / "rapidocr-rec.onnx",
    }  # fmt: skip
    parser.add_argument("names", nargs="*", default=list(paths))
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--part", type=int, default=PART)
    given = parser.parse_args()
    print(f"{'model':<20}{'weights':>8}{'Spearman':>10}{'measured':>10}{'predicted':>11}{'share':>8}")
    for name in given.names:
        count, rank, measured, predicted = compared(name, paths.get(name, Path(name)), given.samples, given.part)
        row = f"{name:<20}{count:>8}{rank:>10.3f}{measured:>9.2f}s{predicted:>10.2f}s{predicted / measured:>8.0%}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
