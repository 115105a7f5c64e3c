"""Fewer than 8 bits, all layers: points lost on Fashion-MNIST and on WordSim353, beside rounding to the nearest.

    python -m tests.bench.below8 [--data DIR] [--minilm DIR] [--seeds 3] [--learned] [--peers] [--only TEXT]
    python -m tests.bench.below8 --int8 rapidocr-rec silero-default [--samples 256] [--tests 64] [--learned] [--every]

The reference CNN and the MobileNetV2-like net of models/, on 512 unlabelled images drawn again by each seed (with
repetition, so that seeds differ) and the test images, all 10,000 with --data (the folder of the idx.gz files). Also
MiniLM by Spearman with --minilm (its folder, see `tests.bench.minilm_int8`). Nearest: codes of weights and activations
rounded to the nearest, on ranges from the least to the greatest element, of weights a channel. Gap: the share of that
loss that is recovered. --learned adds rounding learnt by gradients; --peers adds onnxruntime's own quantizer (min-max,
a scale a channel), which has 4 bits at least, and AdaRound of aimet-onnx (a scale a channel), in --iterations steps a
layer, where installed. --only: rows whose label, such as "fashion_cnn W4A4", contains TEXT.

--int8: models of the zoo at 8 bits on so many unlabelled samples of `tests.bench.zoo_data`, by default settings, in
closed form, refitted, and learnt with --learned: dB on other samples, the share of equal decisions, and of
multiply-accumulates on integers. --every: all layers on integers, whatever accuracy they lose.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import load, save, version_converter

import graphopt
from graphopt.measure import ort_session
from models import fashion
from tests import zoo
from tests.bench import zoo_data
from tests.bench.distillation import DATA, test_data
from tests.bench.fashion_int8 import logits
from tests.bench.ort_int8 import Reader
from tests.bench.quantized import prepare
from tests.bench.side_by_side import integer_share, quality
from tests.bench.zoo_int8 import decisions

NETS = {
    "fashion_cnn": (("int4", "uint8"), ("int3", "uint8"), ("int2", "uint8"), ("int4", "uint4")),
    "fashion_mobilenet": (("int4", "uint8"), ("int4", "uint4")),
}
"""Widths of weights and activations by net."""
WAYS: dict[str, dict[str, Any]] = {
    "nearest": {"rounding": False, "correct_bias": False},
    "closed form": {},
    "learned": {"rounding": "learned"},
}
PEER, ADAROUND = "onnxruntime", "aimet AdaRound"
ITERATIONS = 10_000
"""Steps of AdaRound a layer: aimet's default."""
SAMPLES, TEXTS = 512, 64
PACKED = 21
"""The opset that has integers of 4 bits."""


def ours(path: Path, feeds: Sequence[Any], seed: int, weight: str, activation: str, way: str) -> bytes:
    """The quantized file, every layer on integers."""
    options = graphopt.Quantize(
        "static", weight_type=weight, activation_type=activation, min_sqnr=-np.inf, min_top1=0, **WAYS[way]
    )
    result = graphopt.optimize(path, calibration=feeds, quantize=options, seed=seed, validate=False)
    rows = result.report.stages[0].rows
    assert rows and {row[2] for row in rows} == {"int8"}
    return bytes(result.model.SerializeToString())


def peer(path: Path, feeds: Sequence[Any], weight: str, activation: str) -> bytes:
    """The file of onnxruntime's static quantizer."""
    from onnxruntime import quantization as q

    types = {"int4": q.QuantType.QInt4, "uint4": q.QuantType.QUInt4, "uint8": q.QuantType.QUInt8}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        prepare(path, source)
        raised = version_converter.convert_version(load(source), PACKED)
        raised.ir_version = max(raised.ir_version, 10)  # the first with integers of 4 bits
        save(raised, source)
        q.quantize_static(
            source, target, Reader(feeds), per_channel=True, weight_type=types[weight],
            activation_type=types[activation],
        )  # fmt: skip
        return target.read_bytes()


@dataclass(frozen=True)
class Simulated:
    """A session on aimet's simulation, whose quantizers live only as long as the simulation does."""

    simulation: Any

    def run(self, names: Sequence[str] | None, feed: Any) -> list[Any]:
        return list(self.simulation.session.run(names, feed))


def adaround(path: Path, feeds: Sequence[Any], weight: str, activation: str, iterations: int) -> Simulated:
    """aimet's simulation, normalisations folded, weights rounded by AdaRound (Nagel et al. 2020)."""
    from aimet_onnx import QuantizationSimModel, apply_adaround
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
    from aimet_onnx.common.defs import qtype

    model = load(path)
    fold_all_batch_norms_to_weight(model)
    kinds = {"param_type": qtype.int(int(weight[-1])), "activation_type": qtype.int(int(activation[-1]))}
    simulated = QuantizationSimModel(model, **kinds)
    apply_adaround(simulated, feeds, iterations)
    simulated.compute_encodings(feeds)
    return Simulated(simulated)


def missing(way: str) -> str:
    """Why a way cannot be tried here; "" where it can."""
    if way != ADAROUND:
        return ""
    try:
        import aimet_onnx  # noqa: F401
    except ImportError as error:
        return f"{error}: pip install aimet-onnx"
    return ""


def figures(
    path: Path, draw: Callable[[int], Sequence[Any]], score: Callable[[Any], float], widths: tuple[str, str],
    ways: Sequence[str], seeds: int, iterations: int = ITERATIONS,
) -> Iterator[tuple[str, float, float, float]]:  # fmt: skip
    """(way, mean loss, worst loss, seconds of processor time) of a model."""
    base = score(str(path))
    for way in ways:
        if way == PEER and min(int(kind[-1]) for kind in widths) < 4:
            continue
        losses, times = [], []
        for seed in range(seeds):
            start = time.process_time()
            if way == PEER:
                found: Any = peer(path, draw(seed), *widths)
            elif way == ADAROUND:
                found = adaround(path, draw(seed), *widths, iterations)
            else:
                found = ours(path, draw(seed), seed, *widths, way)
            times.append(time.process_time() - start)
            losses.append(base - score(found))
        yield way, float(np.mean(losses)), max(losses), float(np.mean(times))


def int8_rows(names: Sequence[str], samples: int, tests: int, learned: bool, every: bool) -> Iterator[str]:
    """A line for each model of the zoo and way to round."""
    for name in names:
        path, unseen = zoo.path(name), zoo_data.feeds(name, tests, 2)
        known = zoo_data.feeds(name, samples, 1)
        floor = {"speed": False, "min_sqnr": -np.inf, "min_top1": 0} if every else {}
        for way, rounding in (("closed form", True), ("refit", "refit"), ("learned", "learned"))[: 2 + learned]:
            start = time.process_time()
            options = graphopt.Quantize("static", rounding=rounding, **floor)
            result = graphopt.optimize(path, calibration=known, quantize=options, validate=False)
            seconds = time.process_time() - start
            blob = result.model.SerializeToString()
            sessions = ort_session(str(path)), ort_session(blob)
            sqnr, same = quality(partial(decisions, name), *sessions, unseen)
            share = integer_share(blob, unseen[0])
            yield f"{name} {way}: {sqnr:.2f} dB, {same:.4f} alike, {share:.0%} of MACs, {seconds:.0f} s"


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learned", action="store_true")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="of AdaRound, a layer")
    parser.add_argument("--only", default="")
    parser.add_argument("--int8", nargs="+", default=(), metavar="NAME")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--tests", type=int, default=64)
    parser.add_argument("--every", action="store_true")
    given = parser.parse_args()
    if given.int8:
        for row in int8_rows(given.int8, given.samples, given.tests, given.learned, given.every):
            print(row, flush=True)
        return
    ways = [way for way in WAYS if way != "learned" or given.learned] + [PEER, ADAROUND] * given.peers
    for way in ways:
        if missing(way):
            print(f"{way}: left out: {missing(way)}")
    ways = [way for way in ways if not missing(way)]
    x, labels = test_data(given.data)
    with np.load(fashion.FOLDER / "fashion_calibration.npz") as archive:
        pool = archive["image"]

    def draw(seed: int) -> list[dict[str, Any]]:
        drawn = pool[np.random.default_rng(seed).choice(len(pool), SAMPLES)]
        return [{"image": drawn[i : i + 16]} for i in range(0, SAMPLES, 16)]

    def points(model: Any) -> float:
        return 100 * float((logits(model, x).argmax(1) == labels).mean())

    cases: list[tuple[Path, Any, Callable[[Any], float], Any]] = [
        (fashion.FOLDER / f"{name}.onnx", draw, points, widths) for name, widths in NETS.items()
    ]
    if given.minilm is not None:
        from tests.bench.minilm_int8 import Encoder, correlation, exported, texts

        encode = Encoder(given.minilm)

        def spearman(model: Any) -> float:
            return correlation(model if hasattr(model, "run") else ort_session(model, threads=0), encode)

        path = exported(given.minilm)
        cases.append((path, lambda seed: texts(encode, seed, TEXTS), spearman, (("int4", "uint8"),)))
    table, console = Table(box=None), Console(width=100)
    for heading in ("model and widths", "way", "lost", "worst seed", "gap", "CPU s"):
        table.add_column(heading, justify="left" if heading in ("model and widths", "way") else "right")
    for path, draws, score, pairs in cases:
        for weight, activation in pairs:
            label = f"{path.stem} W{weight[-1]}A{activation[-1]}"
            if given.only not in label:
                continue
            nearest = 0.0
            for way, mean, worst, seconds in figures(
                path, draws, score, (weight, activation), ways, given.seeds, given.iterations
            ):
                nearest = mean if way == "nearest" else nearest
                gap = f"{1 - mean / nearest:.0%}" if way != "nearest" and nearest > 0 else ""
                table.add_row(label, way, f"{mean:.4f}", f"{worst:.4f}", gap, f"{seconds:.0f}")
                console.print(f"{label} {way}: {mean:.4f} {worst:.4f} {gap} {seconds:.0f} s", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
