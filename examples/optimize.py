"""Optimise a model, validate that it is equal, and say what was done: `python examples/optimize.py [MODEL]`."""

import sys
from pathlib import Path

import graphopt

MODEL = Path(__file__).parent.parent / "models" / "fashion_cnn.onnx"


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
    result = graphopt.optimize(source)
    before, after = result.report.before, result.report.after
    print(f"{source.name}: {before.nodes} nodes -> {after.nodes}, {before.file_bytes} bytes -> {after.file_bytes}")
    print(f"{result.report.status}: {result.report.reason}")


if __name__ == "__main__":
    main()
