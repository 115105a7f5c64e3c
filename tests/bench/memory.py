"""Peak anonymous memory of optimising a generated external-data model: `python -m tests.bench.memory [gigabytes]`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx

from tests import generators

CODE = """
import sys, graphopt
report = graphopt.optimize(sys.argv[1], sys.argv[2], validate=sys.argv[3] == "validated").report
print(report.status, report.before.nodes, report.after.nodes)
"""


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process, 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def give_work(path: Path) -> None:
    """Put an Identity behind every node, so that there is something to rewrite."""
    model = onnx.load(path, load_external_data=False)
    results = {value.name for value in model.graph.output}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.output[0] not in results:
            name = node.output[0]
            node.output[0] = f"{name}/before"
            nodes.append(onnx.helper.make_node("Identity", [node.output[0]], [name]))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    onnx.save(model, path)


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "large.onnx"
        generators.external_model(source, gigabytes)
        give_work(source)
        for how in ("unvalidated", "validated"):
            start = time.perf_counter()
            command = [sys.executable, "-c", CODE, str(source), str(Path(folder) / "out.onnx"), how]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            peak = 0
            while process.poll() is None:
                peak = max(peak, anonymous_bytes(process.pid))
                time.sleep(0.02)
            told = process.stdout.read().strip() if process.stdout else ""
            print(f"{gigabytes:g} GB, {how}: {told}, peak {peak / 1e6:.0f} MB, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
