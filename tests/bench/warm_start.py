"""Session creation beside onnxruntime's, kernels cached: `python -m tests.bench.warm_start [names] [--rounds 9]`.

Interleaved medians in milliseconds of wall time and of this process's CPU time, one thread; imports are not counted.
"fresh" is the first session of a new process, with its first run in brackets: everything is read from disk. With --cold
NAME the kernels of that model are first compiled into an empty cache, and the seconds printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from graphopt.measure import ort_session
from graphopt.runtime import Session
from tests.bench.end_to_end import case

NAMES = ("light-resnet50-7bit", "mobilenetv2-like-7bit", "light-shufflenet-7bit", "smart-turn", "fashion")
_COLD = """
import sys, time
import graphopt.runtime
from graphopt.kernels import on_compile
seen = []
on_compile(seen.append)
start = time.perf_counter(), time.process_time()
graphopt.runtime.Session(sys.argv[1], 1, kernels=True)
wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
print(f"{len(seen)} kernels compiled cold, session made in {wall:.1f} s ({cpu:.1f} s of CPU)")
"""

_FRESH = """
import sys, time
import onnx, onnx_ir, onnxruntime, llvmlite.binding
import graphopt.onnx_io.lift, graphopt.runtime
from graphopt.measure import ort_session
from tests.bench.end_to_end import case
chosen, runtime = case(sys.argv[1]), sys.argv[2]
feeds, path = chosen.feeds(0), str(chosen.quantized)
start = time.perf_counter()
session = graphopt.runtime.Session(path, 1, kernels=True) if runtime == "graphopt" else ort_session(path)
made = time.perf_counter()
session.run(None, feeds)
print(made - start, time.perf_counter() - start)
"""


def fresh(name: str, runtime: str, processes: int = 5) -> tuple[float, float]:
    """Median milliseconds of the first session, and of it with its first run, over so many processes."""
    command = [sys.executable, "-c", _FRESH, name, runtime]
    said = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(processes)]
    taken = [[1e3 * float(word) for word in line.split()] for line in said]
    return statistics.median(t[0] for t in taken), statistics.median(t[1] for t in taken)


def cold(path: Path) -> str:
    """What a process with an empty cache says."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GRAPHOPT_CACHE": folder}
        command = [sys.executable, "-c", _COLD, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


def rounds(makers: dict[str, Callable[[], object]], count: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU milliseconds of each maker, in turn."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
    for turn in range(count + 1):
        for name, make in makers.items():
            start = time.perf_counter(), time.process_time()
            kept = make()
            if turn:
                taken[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
            del kept
    return {
        name: (1e3 * statistics.median(t[0] for t in times), 1e3 * statistics.median(t[1] for t in times))
        for name, times in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cold")
    arguments = parser.parse_args()
    if arguments.cold:
        print(f"{arguments.cold}: {cold(case(arguments.cold).quantized)}", flush=True)
    for name in arguments.names:
        path = case(name).quantized
        found = rounds(
            {"Session": lambda p=path: Session(p, 1, kernels=True), "ORT": lambda p=path: ort_session(str(p))},  # type: ignore[misc]
            arguments.rounds,
        )  # fmt: skip
        (wall, cpu), (ort_wall, ort_cpu) = found["Session"], found["ORT"]
        print(
            f"{name:24s} Session {wall:.0f} ms ({cpu:.0f} CPU)  ORT {ort_wall:.0f} ms ({ort_cpu:.0f} CPU)  "
            f"ratio {wall / ort_wall:.2f} ({cpu / ort_cpu:.2f} CPU)", end="", flush=True,
        )  # fmt: skip
        (ours, ours_run), (peer, peer_run) = fresh(name, "graphopt"), fresh(name, "onnxruntime")
        print(
            f"  fresh {ours:.0f} ({ours_run:.0f}) / {peer:.0f} ({peer_run:.0f}) ms, "
            f"ratio {ours / peer:.2f} ({ours_run / peer_run:.2f})", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
