"""Digests of the files that `optimize` writes for the zoo: equal before and after a change that should have no effect.

`python -m tests.bench.digests [NAME …]` prints a line a model and mode: the first 12 digits of the file's SHA-256.
No measured time takes part (`speed=False`), so the same sources give the same lines on the same machine.
"""

from __future__ import annotations

import hashlib
import sys
import warnings

import graphopt
from tests import zoo

LARGE = ("light-vgg19", "light-bvlc_alexnet", "light-zfnet512")
MODES: dict[str, dict[str, object]] = {
    "exact": {},
    "onnxruntime": {"target": "onnxruntime"},
    "static": {"quantize": graphopt.Quantize(speed=False)},
    "dynamic": {"quantize": graphopt.Quantize(mode="dynamic", speed=False)},
    "weights": {"quantize": graphopt.Quantize(mode="weights", speed=False)},
    "prune": {"prune": graphopt.Prune(ratio=0.3)},
}


def digest(name: str, options: dict[str, object]) -> str:
    """The digest of one model's result, or the error in a word."""
    samples = [zoo.feeds(name, seed) for seed in range(4)] if "quantize" in options or "prune" in options else None
    try:
        result = graphopt.optimize(str(zoo.path(name)), calibration=samples, validate=False, **options)
    except graphopt.GraphoptError as error:
        return type(error).__name__
    return hashlib.sha256(result.model.SerializeToString(deterministic=True)).hexdigest()[:12]


def main(names: list[str]) -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    print(f"{'':26}{''.join(f'{mode:14}' for mode in MODES)}", flush=True)
    for name in names or [name for name in zoo.names() if name not in LARGE]:
        print(f"{name:26}{''.join(f'{digest(name, options):14}' for options in MODES.values())}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
