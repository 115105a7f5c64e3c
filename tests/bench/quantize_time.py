"""Time and memory of static quantization: `python -m tests.bench.quantize_time [names]`.

Plain min-max without rounding beside onnxruntime's quantize_static on the same samples, each in a process of its own;
then the peak memory of 8 and of 512 samples that a generator makes one by one.
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
name, path, count, rounding = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True"
options = graphopt.Quantize(rounding=rounding, correct_bias=rounding, speed=False, equalize=False,
                            min_sqnr=float("-inf"), min_top1=0)
start = time.process_time()
graphopt.optimize(path, quantize=options, calibration=(zoo.feeds(name, i) for i in range(count)), validate=False)
"""
THEIRS = """
import logging, sys, time
from pathlib import Path
from tests import zoo
from tests.bench.ort_int8 import quantize
logging.disable(logging.WARNING)
name, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
import onnxruntime.quantization
start = time.process_time()
quantize(path, path.with_suffix(".out"), "u8s8", [zoo.feeds(name, i) for i in range(count)])
"""
MEASURE = """
import resource
print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


def run(code: str, *arguments: object) -> tuple[float, float]:
    """Processor seconds (which a busy machine does not change) and peak megabytes of a fresh process."""
    command = [sys.executable, "-c", code + MEASURE, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, megabytes = done.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["light-squeezenet", "mobilenetv2-like", "light-densenet121"])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=64, help="samples of the run with rounding search")
    arguments = parser.parse_args()
    times, memory = Table(box=None), Table(box=None)
    for heading in (
        f"{arguments.samples} samples",
        "graphopt CPU s",
        "quantize_static CPU s",
        "share",
        "rounding CPU s",
    ):
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
            ours, _ = run(OURS, name, prepared, arguments.samples, False)
            theirs, _ = run(THEIRS, name, prepared, arguments.samples)
            rounded, _ = run(OURS, name, prepared, arguments.rounds, True)
            times.add_row(name, f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}", f"{rounded:.1f}")
            Console(width=110).print(times)
        name = "light-squeezenet"
        few, many = (run(OURS, name, zoo.path(name), count, False)[1] for count in (8, 512))
        memory.add_row(name, f"{few:.0f}", f"{many:.0f}", f"{many / few:.2f}")
        Console(width=110).print(memory)


if __name__ == "__main__":
    main()
