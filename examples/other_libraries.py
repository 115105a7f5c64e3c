"""Passes of onnx_ir and rules of onnxscript in one schedule with graphopt's: `python examples/other_libraries.py`."""

from pathlib import Path

import onnx_ir.passes.common as common
from onnxscript.rewriter import pattern

import graphopt

MODEL = Path(__file__).parent.parent / "models" / "fashion_cnn.onnx"


def clipped(op, x, low, high):
    return op.Clip(op.Clip(x, low, high), low, high)


def clipped_once(op, x, low, high):
    return op.Clip(x, low, high)


def main() -> None:
    rule = pattern.RewriteRule(clipped, clipped_once)
    result = graphopt.optimize(
        MODEL, passes=["drop-identities", rule, common.RemoveUnusedNodesPass(), "fold-batchnorm"]
    )
    for effect in result.report.effects:
        print(f"{effect.name}: {effect.changes} changes")
    print(result.report.status, result.report.reason)


if __name__ == "__main__":
    main()
