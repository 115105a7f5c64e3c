"""Wall and processor time of an exact run beside onnxslim, validation included: `python -m tests.bench.exact_time`.

    python -m tests.bench.exact_time [MODEL …] [--rounds 3] [--peer-python PATH] [--profile]

MODEL is a file, a name of the zoo, or "resnet152" or "transformer" (generated here: 60 M weights with
BatchNormalization to fold, 126 M weights with repeated and idle nodes); by default VGG19 and both. Each run is a
separate process that reads the file, optimizes it with default options and writes the result; rounds are interleaved;
prints the medians, and the ratio of the medians of processor time, which other work on the machine hardly changes.
onnxslim validates nothing. --peer-python: an interpreter with onnxslim, if this one lacks it. --profile: a profile of
our time. The goal: on files whose rewrites only remove copies, such as VGG19, no slower than onnxslim.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import zoo

OURS = "import sys, graphopt; graphopt.optimize(sys.argv[1], sys.argv[2])"
THEIRS = "import sys, onnxslim; onnxslim.slim(sys.argv[1], sys.argv[2])"
PROFILE = (
    "import sys, cProfile, pstats, graphopt; p = cProfile.Profile(); p.enable(); "
    "r = graphopt.optimize(sys.argv[1], sys.argv[2]); p.disable(); print(r.report.status, r.report.reason); "
    "pstats.Stats(p).sort_stats('tottime').print_stats(18)"
)


class _Net:
    """Nodes and weights under way."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int, scale: float = 1.0, positive: bool = False) -> str:
        name = f"w{len(self.weights)}"
        array = self.rng.standard_normal(shape, np.float32) * np.float32(scale)
        self.weights.append(numpy_helper.from_array(np.abs(array) + np.float32(0.5) if positive else array, name))
        return name

    def constant(self, array: object) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, op: str, *inputs: str, **attrs: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attrs))
        return name

    def model(self, x: list[int | str], y: str) -> onnx.ModelProto:
        given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
        results = [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "g", given, results, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def resnet152() -> onnx.ModelProto:
    """ResNet-152 (He et al., 2015, table 1) as trained: every Conv with its BatchNormalization."""
    net = _Net()

    def conv(x: str, inside: int, outside: int, size: int, stride: int = 1, relu: bool = True) -> str:
        weight = net.weight(outside, inside, size, size, scale=(2 / (inside * size * size)) ** 0.5)
        x = net.add("Conv", x, weight, pads=[size // 2] * 4, strides=[stride] * 2)
        shift = [net.weight(outside, scale=0.1) for _ in range(2)]
        x = net.add("BatchNormalization", x, net.weight(outside, scale=0.1, positive=True), *shift,
                    net.weight(outside, scale=0.1, positive=True))  # fmt: skip
        return net.add("Relu", x) if relu else x

    x = net.add("MaxPool", conv("x", 3, 64, 7, 2), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for blocks, width in ((3, 64), (8, 128), (36, 256), (3, 512)):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            y = conv(conv(x, channels, width, 1), width, width, 3, stride)
            y = conv(y, width, 4 * width, 1, relu=False)
            x = conv(x, channels, 4 * width, 1, stride, relu=False) if block == 0 else x
            x, channels = net.add("Relu", net.add("Add", y, x)), 4 * width
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    return net.model([1, 3, 224, 224], net.add("MatMul", x, net.weight(2048, 1000, scale=0.02)))


def transformer() -> onnx.ModelProto:
    """Ten encoder layers of width 1024: 504 MB of float32, with the copies that exporters leave."""
    net, width, heads = _Net(), 1024, 16
    x = "x"
    split = net.constant(np.array([0, 0, heads, width // heads], np.int64))
    joined = net.constant(np.array([0, 0, width], np.int64))
    scale = net.constant(np.float32((width / heads) ** -0.5))

    def linear(x: str, inside: int, outside: int) -> str:
        return net.add(
            "Add", net.add("MatMul", x, net.weight(inside, outside, scale=inside**-0.5)), net.weight(outside)
        )

    def norm(x: str) -> str:
        return net.add("LayerNormalization", x, net.weight(width, positive=True), net.weight(width), axis=-1)

    for _ in range(10):
        y = norm(x)
        q, k, v = (net.add("Reshape", linear(y, width, width), split) for _ in range(3))
        q, v = (net.add("Transpose", one, perm=[0, 2, 1, 3]) for one in (q, v))
        scores = net.add("Mul", net.add("MatMul", q, net.add("Transpose", k, perm=[0, 2, 3, 1])), scale)
        mixed = net.add("MatMul", net.add("Dropout", net.add("Softmax", scores, axis=-1)), v)
        mixed = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
        x = net.add("Add", x, net.add("Identity", net.add("Dropout", linear(mixed, width, width))))
        hidden = net.add("Relu", linear(norm(x), width, 4 * width))
        x = net.add("Add", x, net.add("Dropout", linear(hidden, 4 * width, width)))
    return net.model([1, 64, width], norm(x))


MADE: dict[str, Callable[[], onnx.ModelProto]] = {"resnet152": resnet152, "transformer": transformer}


def _run(python: str, code: str, source: Path, folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of one process."""
    import resource
    import time

    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([python, "-c", code, source, folder / "out.onnx"], env=env, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{python} failed: {done.stderr.strip().splitlines()[-1]}")
    if code is PROFILE:
        print(done.stdout)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _source(name: str, folder: Path) -> Path:
    """The file of a model; one that is made here is written to `folder`."""
    if name in MADE:
        path = folder / f"{name}.onnx"
        onnx.save(MADE[name](), path)
        return path
    path = Path(name)
    found = path if path.is_file() else zoo.path(name)
    if found is None:
        sys.exit(f"{name}: no file, no model of the zoo")
    return found


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["light-vgg19", "resnet152", "transformer"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args(None if arguments is None else list(arguments))
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        for name in asked.models:
            source = _source(name, Path(scratch))
            if asked.profile:
                _run(sys.executable, PROFILE, source, Path(scratch))
                continue
            times: dict[str, list[tuple[float, float]]] = {"graphopt": [], "onnxslim": []}
            for _ in range(asked.rounds):
                times["graphopt"].append(_run(sys.executable, OURS, source, Path(scratch)))
                times["onnxslim"].append(_run(asked.peer_python, THEIRS, source, Path(scratch)))
            middle = {who: [statistics.median(t[i] for t in runs) for i in (0, 1)] for who, runs in times.items()}
            cells = "  ".join(f"{who} {wall:.1f} s, processor {cpu:.1f} s" for who, (wall, cpu) in middle.items())
            print(f"{name}  {cells}  processor ratio {middle['graphopt'][1] / middle['onnxslim'][1]:.2f}", flush=True)


if __name__ == "__main__":
    main()
