"""Nodes remaining after simplifiers, by target: `python -m tests.bench.nodes [names]`.

The portable result is compared with simplifiers; the result for onnxruntime ("for ort") with the file that onnxruntime
itself writes at its extended level ("ort"), which uses the same operators.

Nodes are counted recursively through nested graphs, Constant nodes not counted. Every result, ours and peers', is
checked against the original by `graphopt.compare`, and against the size budget (original + 1 % + 4 KB): `x` marks a
result that differs or does not run, `+` a result that is too large, `fail` an optimizer that raises or crashes. Each
optimizer runs in its own process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx

import graphopt
from tests import zoo

OPTIMIZERS = {
    "graphopt": "import graphopt; m = graphopt.optimize(source, validate=False).model",
    "onnxsim": "import onnxsim; m, ok = onnxsim.simplify(onnx.load(source))",
    "onnxslim": "import onnxslim; m = onnxslim.slim(source)",
    "onnxscript": "import onnxscript.optimizer as o; m = onnx.load(source); n = o.optimize(m); m = n or m",
    "for ort": "import graphopt; m = graphopt.optimize(source, validate=False, target='onnxruntime').model",
    "ort": "import onnxruntime as o; s = o.SessionOptions(); s.optimized_model_filepath = target; "
    "s.graph_optimization_level = o.GraphOptimizationLevel.ORT_ENABLE_EXTENDED; "
    "o.InferenceSession(source, s, providers=['CPUExecutionProvider']); m = onnx.load(target)",
}
OURS = {"graphopt": ("onnxsim", "onnxslim", "onnxscript"), "for ort": ("ort",)}
SECONDS = 300


@dataclass(frozen=True, slots=True)
class Result:
    """What an optimizer left of a model."""

    nodes: int | None  # None: it failed
    mark: str = ""

    def __str__(self) -> str:
        return "fail" if self.nodes is None else f"{self.nodes}{self.mark}"


def count(graph: onnx.GraphProto) -> int:
    """Nodes in a graph and all nested in it, Constant nodes not counted."""
    nested = (g for n in graph.node for a in n.attribute for g in (a.g, *a.graphs) if g.node)
    return sum(n.op_type != "Constant" for n in graph.node) + sum(count(g) for g in nested)


def optimise(optimizer: str, source: Path) -> Result:
    """Run an optimizer on a file in a process of its own, and judge what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.onnx"
        code = f"import onnx; source, target = {str(source)!r}, {str(target)!r}; {OPTIMIZERS[optimizer]}"
        try:
            subprocess.run(
                [sys.executable, "-c", f"{code}; onnx.save(m, target)"],
                check=True, capture_output=True, timeout=SECONDS,
            )  # fmt: skip
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return Result(None)
        original, made = source.stat().st_size, target.stat().st_size
        mark = "" if graphopt.compare(source, target, samples=2).status == "equal" else "x"
        mark += "+" if made > original * 1.01 + 4096 else ""
        return Result(count(onnx.load(target).graph), mark)


def main(names: list[str]) -> int:
    """Print the table; returns how often a peer leaves fewer nodes, rightly, than we do."""
    print(f"{'model':28}{'original':>10}" + "".join(f"{name:>12}" for name in OPTIMIZERS), flush=True)
    behind = dict.fromkeys(OURS, 0)
    for name in names or list(zoo.BY_NAME):
        source = zoo.path(name)
        if source is None:
            continue
        results = {optimizer: optimise(optimizer, source) for optimizer in OPTIMIZERS}
        for ours, peers in OURS.items():
            made = results[ours].nodes
            best = [r.nodes for r in (results[p] for p in peers) if r.nodes is not None and not r.mark]
            behind[ours] += made is None or bool(results[ours].mark) or (bool(best) and made > min(best))
        original = count(onnx.load(source).graph)
        print(f"{name:28}{original:>10}" + "".join(f"{r!s:>12}" for r in results.values()), flush=True)
    for ours, peers in OURS.items():
        print(f"{ours}: of {', '.join(peers)}, one that is right leaves fewer nodes on {behind[ours]} models")
    return sum(behind.values())


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
