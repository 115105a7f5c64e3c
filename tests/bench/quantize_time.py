"""Time and memory of static quantization: `python -m tests.bench.quantize_time [names]`.

Plain min-max without optimized rounding against onnxruntime's quantize_static, whole calls on the same samples and with
all cores, each in its own process, in wall time and in processor time; then the peak memory for 8 and for 512 samples
that a generator yields one by one. With `--slope`, the fixed time of each and the time per sample, with the lower bound
of any calibration: opening the float model and running it once per sample.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import zoo
from tests.bench.ort_int8 import prepare

OURS = """
import sys, time, graphopt
import graphopt.api, graphopt.passes, graphopt.onnx_io.emit, onnxruntime
from tests import zoo
name, path, count, rounding, held = sys.argv[1], sys.argv[2], int(sys.argv[3]), *(a == "True" for a in sys.argv[4:])
options = graphopt.Quantize(rounding=rounding, correct_bias=rounding, speed=False, equalize=False,
                            min_sqnr=float("-inf"), min_top1=0)
samples = (zoo.feeds(name, i) for i in range(count))
samples = list(samples) if held else samples
start, used = time.perf_counter(), time.process_time()
graphopt.optimize(path, quantize=options, calibration=samples, validate=False)
"""
THEIRS = """
import logging, sys, time
from pathlib import Path
from tests import zoo
from tests.bench.ort_int8 import quantize
logging.disable(logging.WARNING)
name, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
import onnxruntime.quantization
samples = [zoo.feeds(name, i) for i in range(count)]
start, used = time.perf_counter(), time.process_time()
quantize(path, path.with_suffix(".out"), "u8s8", samples)
"""
FLOAT = """
import sys, time, onnxruntime
from tests import zoo
name, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
samples = [zoo.feeds(name, i) for i in range(count)]
start, used = time.perf_counter(), time.process_time()
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
for feed in samples:
    session.run(None, feed)
"""
MEASURE = """
import resource
print(time.perf_counter() - start, time.process_time() - used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


def run(code: str, *arguments: object) -> tuple[float, float, float]:
    """Wall seconds, processor seconds (which a busy machine changes less) and peak megabytes of a fresh process."""
    command = [sys.executable, "-c", code + MEASURE, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, used, megabytes = (float(word) for word in done.stdout.split()[-3:])
    return wall, used, megabytes


def slope(code: str, name: str, path: Path, count: int, times: int, *more: object) -> tuple[float, float]:
    """Milliseconds that are fixed, and that each sample adds: from `count` samples and four times as many, fastest runs
    of each."""
    few, many = (min(run(code, name, path, n, *more)[0] for _ in range(times)) for n in (count, 4 * count))
    each = (many - few) / (3 * count)
    return 1e3 * (few - count * each), 1e3 * each


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["light-squeezenet", "mobilenetv2-like", "light-densenet121"])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=64, help="samples of the run with rounding search; 0: none")
    parser.add_argument("--times", type=int, default=3, help="runs of which the fastest counts")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--slope", action="store_true", help="fixed time and time a sample, in place of whole calls")
    arguments = parser.parse_args()
    times, memory, parts = Table(box=None), Table(box=None), Table(box=None)
    for heading in ("ms, fixed and a sample", "float model", "", "graphopt", "", "quantize_static", "", "share", ""):
        parts.add_column(heading, justify="left" if "fixed" in heading else "right")
    for heading in (f"{arguments.samples} samples, seconds", "graphopt", "quantize_static", "share",
                    "CPU graphopt", "CPU quantize_static", "share", "rounding"):  # fmt: skip
        times.add_column(heading, justify="left" if "samples" in heading else "right")
    for heading in ("peak memory", "8 samples MB", "512 samples MB", "ratio"):
        memory.add_column(heading, justify="left" if heading == "peak memory" else "right")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names:
            source = zoo.path(name)
            if source is None:
                continue
            prepared = Path(folder, f"{name}.onnx")
            prepare(source, prepared)
            if arguments.slope:
                options = (name, prepared, arguments.samples, arguments.times)
                slopes = slope(FLOAT, *options), slope(OURS, *options, False, True), slope(THEIRS, *options)
                shares = (a / b for a, b in zip(slopes[1], slopes[2]))
                parts.add_row(name, *(f"{v:.1f}" for part in slopes for v in part), *(f"{v:.2f}" for v in shares))
                Console(width=120).print(parts)
                continue
            ours, theirs = [], []
            for _ in range(arguments.times):
                ours.append(run(OURS, name, prepared, arguments.samples, False, True)[:2])
                theirs.append(run(THEIRS, name, prepared, arguments.samples)[:2])
            a, b = min(ours), min(theirs)
            rounded = run(OURS, name, prepared, arguments.rounds, True, True)[0] if arguments.rounds else 0.0
            cells = (a[0], b[0], a[0] / b[0], a[1], b[1], a[1] / b[1], rounded)
            times.add_row(name, *(f"{value:.2f}" for value in cells))
            Console(width=120).print(times)
        if not arguments.no_memory and not arguments.slope:
            name = "light-squeezenet"
            few, many = (run(OURS, name, zoo.path(name), count, False, False)[2] for count in (8, 512))
            memory.add_row(name, f"{few:.0f}", f"{many:.0f}", f"{many / few:.2f}")
            Console(width=120).print(memory)


if __name__ == "__main__":
    main()
