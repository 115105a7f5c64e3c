"""Fashion-MNIST in int8 and int4: accuracy in stock onnxruntime, mean of three calibration seeds.

`python -m tests.bench.fashion_int8 [--data DIR]`: DIR holds the four idx.gz files (Debian's dataset-fashion-mnist);
without it the 2,000 committed test images are used. The guard's metric sees held-out training images only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from graphopt.measure import ort_session
from models import fashion
from tests.bench.ort_int8 import SETTINGS, prepare, quantize

Array = np.ndarray[Any, Any]
MODEL = fashion.FOLDER / "fashion_cnn.onnx"
EXACT = {"session.x64quantprecision": "1"}
SEEDS, SAMPLES = (0, 1, 2), 256


def images(data: Path | None) -> tuple[Array, Array]:
    """The test images and labels."""
    if data is None:
        return fashion.load("test")
    from models.train_fashion import read_idx

    pixels, labels = (read_idx(data / f"t10k-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return fashion.normalise(pixels), labels.astype(np.int64)


def logits(model: Any, x: Array, options: dict[str, str] | None = None) -> Array:
    """All logits of a model or session, in batches."""
    session = model if hasattr(model, "run") else ort_session(model, threads=0, options=options)
    return np.concatenate([session.run(None, {"image": x[i : i + 500]})[0] for i in range(0, len(x), 500)])


def figures(model: Any, reference: Array, x: Array, labels: Array) -> list[float]:
    """Drop in points, agreement with fp32 in %, SQNR in dB, agreement of stock and exact arithmetic in %."""
    given, exact = logits(model, x), logits(model, x, EXACT)
    best, base = given.argmax(1), reference.argmax(1)
    noise = float(((reference - given) ** 2).sum())
    return [
        100 * float((base == labels).mean() - (best == labels).mean()),
        100 * float((best == base).mean()),
        10 * float(np.log10(float((reference**2).sum()) / noise)),
        100 * float((best == exact.argmax(1)).mean()),
    ]


CASES: dict[str, dict[str, Any]] = {
    "static int8": {"quantize": graphopt.Quantize()},
    "static int8, guard": {"quantize": graphopt.Quantize(), "metric": fashion.accuracy, "max_drop": 0.003},
    "all weights int4": {"quantize": graphopt.Quantize("weights", weight_type="int4", min_sqnr=0, min_top1=0)},
    "mixed int4, guard": {
        "quantize": graphopt.Quantize("weights", weight_type="int4"), "metric": fashion.accuracy, "max_drop": 0.003,
    },
}  # fmt: skip


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    x, labels = images(parser.parse_args().data)
    with np.load(fashion.FOLDER / "fashion_calibration.npz") as archive:
        pool = archive["image"]
    table = Table(box=None)
    for heading in (f"{len(x)} test images", "drop, points", "agrees %", "SQNR dB", "stock = exact %", "8-bit layers"):
        table.add_column(heading, justify="left" if "images" in heading else "right")
    reference = logits(str(MODEL), x)
    for name, options in CASES.items():
        rows, finer = [], []
        for seed in SEEDS:
            chosen = np.random.default_rng(seed).choice(len(pool), SAMPLES, replace=False)
            result = graphopt.optimize(MODEL, calibration={"image": pool[chosen]}, seed=seed, **options)
            rows.append(figures(result.model.SerializeToString(), reference, x, labels))
            finer.append(sum(row[3] == 8 for row in result.report.stages[0].rows))
        mean = np.mean(rows, axis=0)
        table.add_row(name, *(f"{v:.3f}" for v in mean), f"{np.mean(finer):.1f} of 14")
    prepared = Path("/tmp") / "fashion-prepared.onnx"
    prepare(MODEL, prepared)
    for setting in SETTINGS:
        target = prepared.with_suffix(f".{setting}.onnx")
        feeds = [{"image": pool[i : i + 1]} for i in range(SAMPLES)]
        quantize(prepared, target, setting, feeds)
        table.add_row(f"onnxruntime {setting}", *(f"{v:.3f}" for v in figures(str(target), reference, x, labels)), "")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
