"""Time of optimization, without validation, against peers: `python -m tests.bench.optimize_time [names]`.

Every optimizer gets the model in memory and returns one. Rounds are interleaved; times are the best round's, ratios the
median of (peer's time / ours) over the rounds. The requirement: at least three times as fast as onnxslim; the goal: as
fast as onnxsim, in C++.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable

import onnx

import graphopt
from tests import zoo


def _onnxslim(proto: onnx.ModelProto) -> None:
    import onnxslim

    onnxslim.slim(proto)


def _onnxsim(proto: onnx.ModelProto) -> None:
    import onnxsim

    onnxsim.simplify(proto)


def _onnxscript(proto: onnx.ModelProto) -> None:
    import onnxscript.optimizer

    onnxscript.optimizer.optimize(proto)


def _graphopt(proto: onnx.ModelProto) -> None:
    _ = graphopt.optimize(proto, validate=False).model


OPTIMIZERS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "graphopt": _graphopt,
    "onnxslim": _onnxslim,
    "onnxscript": _onnxscript,
    "onnxsim": _onnxsim,
}


def measure(proto: onnx.ModelProto, rounds: int) -> dict[str, list[float]]:
    """Seconds of each optimizer, round by round; an empty list where it fails."""
    times: dict[str, list[float]] = {name: [] for name in OPTIMIZERS}
    failed: set[str] = set()
    for i in range(rounds + 1):  # the first round imports and compiles
        for name, optimizer in OPTIMIZERS.items():
            if name in failed:
                continue
            copy = onnx.ModelProto()
            copy.CopyFrom(proto)
            start = time.perf_counter()
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    optimizer(copy)
            except BaseException:
                failed.add(name)
                times[name] = []
                continue
            if i:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(peer: list[float], ours: list[float]) -> str:
    """How many times as long the peer takes: the median over the rounds."""
    return f"{statistics.median(p / o for p, o in zip(peer, ours)):.1f}" if peer else ""


def main(names: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for heading in ("model", "nodes", *(f"{n} ms" for n in OPTIMIZERS), "slim/ours", "script/ours", "sim/ours"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name in names or zoo.names():
        path = zoo.path(name)
        if path is None:
            continue
        proto = onnx.load(path)
        times = measure(proto, 5)
        cells = [f"{min(t) * 1e3:.1f}" if t else "fails" for t in times.values()]
        ratios = [ratio(times[peer], times["graphopt"]) for peer in ("onnxslim", "onnxscript", "onnxsim")]
        table.add_row(name, str(len(proto.graph.node)), *cells, *ratios)
    Console(width=140).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
