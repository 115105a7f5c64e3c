"""Session creation beside onnxruntime's, kernels cached: `python -m tests.bench.warm_start [names] [--unplanned]`.

Interleaved medians in milliseconds of wall time and of this process's CPU time, one thread; imports are not counted.
"fresh" is the first session of a process of its own, with its first run in brackets: all comes from the disk.
With --cold NAME the kernels of that model are compiled into an empty cache first, and the seconds told. With
--unplanned, sessions as callers make them, of files with these paths, too, find no plan of the file on the disk and
save theirs; the first one of each, not counted, compiles the kernels that are missing. "run": with the first run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphopt.equivalence import synthesise
from graphopt.measure import ort_session
from graphopt.runtime import Session
from graphopt.runtime.cache import plan_cache
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


def rounds(
    makers: dict[str, Callable[[], object]], count: int, before: Callable[[], object] = lambda: None
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """Median wall and CPU milliseconds of each maker, in turn; `before` is called before each, not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
    for turn in range(count + 1):
        for name, make in makers.items():
            before()
            start = time.perf_counter(), time.process_time()
            kept = make()
            if turn:
                taken[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
            del kept
    return {
        name: (1e3 * statistics.median(t[0] for t in times), 1e3 * statistics.median(t[1] for t in times))
        for name, times in taken.items()
    }


def unplanned(path: Path, count: int) -> tuple[float, str]:
    """The ratio of the CPU times of a session that finds no plan on the disk and of onnxruntime's; a row with both."""
    feed = synthesise(path, 1)[0]
    with tempfile.TemporaryDirectory() as folder, unittest.mock.patch.object(
        plan_cache, "cache_folder", lambda: Path(folder)
    ):  # fmt: skip
        made: dict[str, Callable[[], Any]] = {"Session": lambda: Session(path, 1), "ORT": lambda: ort_session(path)}
        run = {f"{name} run": lambda make=make: make().run(None, feed) for name, make in made.items()}
        found = rounds({**made, **run}, count, lambda: _forget(Path(folder)))
        parts = len(made["Session"]().regions)
    cpu = {name: times[1] for name, times in found.items()}
    ratio, told = cpu["Session"] / cpu["ORT"], f"{parts} regions" if parts else "whole"
    return ratio, (
        f"{path.name:40s} Session {cpu['Session']:.1f} ms CPU  ORT {cpu['ORT']:.1f} ms CPU  ratio {ratio:.2f}  "
        f"run {cpu['Session run']:.1f} / {cpu['ORT run']:.1f}  {cpu['Session run'] / cpu['ORT run']:.2f}  {told}"
    )


def _forget(folder: Path) -> None:
    """Make a cache's folder of plans empty, its size known."""
    shutil.rmtree(folder / "plans", ignore_errors=True)
    (folder / "plans").mkdir()
    (folder / "plans.tally").write_bytes(b"")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cold")
    parser.add_argument("--unplanned", action="store_true")
    arguments = parser.parse_args()
    if arguments.cold:
        print(f"{arguments.cold}: {cold(case(arguments.cold).quantized)}", flush=True)
    ratios: list[float] = []
    for name in arguments.names:
        path = Path(name) if Path(name).is_file() else case(name).quantized
        if arguments.unplanned:
            ratio, row = unplanned(path, arguments.rounds)
            ratios.append(ratio)
            print(row, flush=True)
            continue
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
    if ratios:
        worst = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios)[-3:])
        print(f"{len(ratios)} files: median {statistics.median(ratios):.2f}, the worst {worst}")


if __name__ == "__main__":
    main()
