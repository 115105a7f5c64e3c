"""Fusions in exporters' files, as the rows of the table in docs/fusion.md: `python -m tests.bench.exports`.

Nodes of the original, of the portable result and of the result for onnxruntime, and the fused operators that the last
has in addition to the original's, for every file of tests/data/exports and some models of the zoo.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import onnx

import graphopt
from tests import zoo
from tests.bench.nodes import count

FOLDER = Path(__file__).parents[1] / "data" / "exports"
ZOO = {
    "rapidocr-det": "paddle", "rapidocr-rec": "paddle", "rapidocr-cls": "paddle", "magika": "jax, tf2onnx",
    "basic-pitch": "tf2onnx", "minilm-int8": "torch, weights as Cast and scale", "light-densenet121": "caffe2",
    "romanizer-arabic-encoder": "torch",
}  # fmt: skip
FUSED = frozenset((
    "Attention", "MultiHeadAttention", "RotaryEmbedding", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "HardSwish",
    "Mish", "HardSigmoid", "LeakyRelu", "LayerNormalization", "RMSNormalization", "InstanceNormalization",
    "BatchNormalization", "FusedConv", "FusedGemm", "FusedMatMul", "LogSoftmax", "LpNormalization", "Sum",
))  # fmt: skip


def row(label: str, path: Path) -> str:
    """One line of the table."""
    original = onnx.load(path, load_external_data=False)
    made = {
        target: graphopt.optimize(path, target=target, validate=False).model for target in ("portable", "onnxruntime")
    }
    before, after = (Counter(node.op_type for node in model.graph.node) for model in (original, made["onnxruntime"]))
    more = {op: number - before[op] for op, number in after.items() if op in FUSED and number > before[op]}
    told = ", ".join(op if number == 1 else f"{op} {number}" for op, number in sorted(more.items()))
    nodes = " | ".join(str(count(model.graph)) for model in (original, *made.values()))
    return f"| {label} | {nodes} | {told} |"


def main() -> None:
    """Print the rows; names limit them."""
    names = sys.argv[1:]
    for path in sorted(FOLDER.glob("*.onnx")):
        if not names or path.stem in names:
            print(row(path.stem, path), flush=True)
    for name, exporter in ZOO.items():
        path = zoo.path(name)
        if path is not None and (not names or name in names):
            print(row(f"{name} ({exporter})", path), flush=True)


if __name__ == "__main__":
    main()
