"""Thousands of random graphs through the whole schedule: `python -m tests.fuzz.nightly --graphs 20000`.

Prints how each ended and which rewrites fired how often; a rule that never fires is a hole in the generator. Failures
are shrunk, printed as text and written to the folder given by --keep. Exit code 1 if there are any. With --session the
graphs run in a `graphopt.Session` on kernels instead (see `sessions`), and the counts are of the operations they ran.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import onnx

from graphopt import onnx_io
from graphopt.ir import to_text
from graphopt.passes import SCHEDULE
from graphopt.rewrite import Rule
from graphopt.testing import random_graph

from . import sessions
from .shrinking import smallest
from .trial import Trial, attempt

CHUNK = 100
TARGETS = ("portable", "portable", "onnxruntime")


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule of the schedule, once."""
    return tuple({id(rule): rule for item in SCHEDULE for rule in item.rules}.values())


def model_of(seed: int) -> onnx.ModelProto:
    """The graph of a seed; every fourth is long."""
    return random_graph(seed, blocks=16 if seed % 4 == 3 else 8, matching=rules(), target=target_of(seed))


def target_of(seed: int) -> str:
    return TARGETS[seed % len(TARGETS)]


def trial_of(seed: int, empty: bool = False) -> Trial:
    return attempt(model_of(seed), SCHEDULE, target_of(seed), seed, empty)


def _chunk(task: tuple[range, bool, bool]) -> list[tuple[int, Trial]]:
    seeds, empty, session = task
    return [(seed, sessions.trial_of(seed) if session else trial_of(seed, empty)) for seed in seeds]


def never_fired(fired: Counter[str]) -> list[str]:
    """Names of the schedule's rules that are in no entry."""
    names = {entry.rpartition("/")[2] for entry in fired}
    return sorted({rule.name for rule in rules()} - names)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=20000)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for the models that fail")
    parser.add_argument("--empty", action="store_true", help="empty batches too; a kernel may abort on one")
    parser.add_argument("--session", action="store_true", help="sessions on kernels, in place of the schedule")
    options = parser.parse_args(arguments)
    end = options.start + options.graphs
    seeds = [range(low, min(low + CHUNK, end)) for low in range(options.start, end, CHUNK)]
    chunks = [(part, options.empty, options.session) for part in seeds]
    statuses, fired, bad = Counter[str](), Counter[str](), list[tuple[int, Trial]]()
    nodes = [0, 0]
    begun, last = time.monotonic(), 0.0
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.processes) as pool:
        for done in pool.imap(_chunk, chunks):
            for seed, trial in done:
                statuses[trial.status] += 1
                fired += trial.fired
                nodes = [a + b for a, b in zip(nodes, trial.nodes)]
                if trial.failed:
                    bad.append((seed, trial))
                    print(f"seed {seed} ({target_of(seed)}) {trial.status}: {trial.reason[:200]}", flush=True)
            if time.monotonic() - last > 30:
                last = time.monotonic()
                print(f"{sum(statuses.values())} graphs, {last - begun:.0f} s", file=sys.stderr, flush=True)
    seconds = time.monotonic() - begun
    print(f"{options.graphs} graphs in {seconds:.0f} s: {dict(statuses)}; nodes {nodes[0]} -> {nodes[1]}")
    for entry, count in fired.most_common():
        print(f"{count:8d} {entry}")
    if not options.session:
        print(f"never fired: {', '.join(never_fired(fired)) or 'none'}")
    for seed, trial in bad[:20]:
        _show(seed, trial, options.keep, options.session)
    return 1 if bad else 0


def _show(seed: int, trial: Trial, keep: Path | None, session: bool) -> None:
    if session:
        model, target = sessions.model_of(seed), "session"
        small = smallest(model, lambda piece: sessions.attempt(piece, seed))
    else:
        model, target = model_of(seed), target_of(seed)
        small = smallest(model, lambda piece: attempt(piece, SCHEDULE, target, seed))
    print(f"\nseed {seed}, {target}: {trial.status}: {trial.reason[:300]}")
    lifted = onnx_io.load(small)
    print(f"opset {lifted.opset}\n{to_text(lifted.graph, constants=True)}")
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        onnx.save(model, keep / f"{seed}.onnx")
        onnx.save(small, keep / f"{seed}-small.onnx")


if __name__ == "__main__":
    sys.exit(main())
