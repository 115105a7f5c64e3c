"""Int8 of the light architectures (He weights) beside the best of onnxruntime's six settings.

`python -m tests.bench.light_int8 [names]`: the whole table, or the named models; rows appear as they are measured, each
figure as the mean over calibration seeds with the worst seed in brackets (see `side_by_side`). Weights are random, so
quality says little and the floor on fidelity is off: the table is about speed.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

import numpy as np

import graphopt
from tests import zoo
from tests.bench.side_by_side import Case, table

NAMES = (
    "light-resnet50", "light-squeezenet", "light-inception_v1", "light-densenet121", "light-shufflenet",
    "mobilenetv2-like",
)  # fmt: skip
UNSEEN = 1000
"""The first seed of the feeds that judge quality."""


def classes(results: list[np.ndarray[Any, Any]]) -> list[object]:
    """The largest of the first output, a row a sample."""
    first = results[0].reshape(len(results[0]), -1)
    return list(first.argmax(axis=-1))


def case(name: str, samples: int, rounding: bool) -> Case:
    """One of the models; speed is all that guards it."""
    return Case(
        name,
        lambda seed: [zoo.feeds(name, seed * samples + i) for i in range(samples)],
        [zoo.feeds(name, UNSEEN + i) for i in range(8)],
        classes,
        graphopt.Quantize(min_sqnr=-100, min_top1=0, rounding=rounding),
        validate=False,
    )


def main() -> int:
    """Print the table; 1 if a row failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="name", help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--seeds", type=int, default=3, help="calibration seeds")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.0, help="timing of each candidate and seed")
    parser.add_argument("--rounding", action="store_true", help="with the rounding search")
    parser.add_argument("--every", action="store_true", help="all of onnxruntime's settings, not its best alone")
    given = parser.parse_args()
    cases = [(name, partial(case, name, given.samples, given.rounding)) for name in given.names]
    return int(table(cases, given.seeds, given.seconds, given.every) > 0)


if __name__ == "__main__":
    sys.exit(main())
