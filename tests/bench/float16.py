"""Half precision of whole files: `python -m tests.bench.float16 [FILE or zoo name …]`.

Per file: our result's size relative to the file's, the fidelity of float32 computing with values rounded to float16
(what a runtime with half-precision kernels computes) and of the file in onnxruntime on unseen inputs, nodes that stay
float32, Casts; whether onnxruntime and OpenVINO load it, and the same of onnxconverter-common's converter (each is left
out where it is not installed). A file FILE.onnx takes its inputs from FILE.npz beside it, or made-up ones.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

import graphopt
from graphopt.errors import one_line
from graphopt.measure import ort_session
from graphopt.onnx_io import load
from tests import zoo
from tests.bench import zoo_data

SQNR = 45.0
"""Decibels that a result keeps, or the operators that stay float32 are named."""
SIZE = 0.52
"""The largest share of the float32 file."""


def _cases(names: list[str]) -> Iterator[tuple[str, Path, Any, Any]]:
    """Name, file, data to convert by and unseen data (None where there are none)."""
    for name in names or [entry.name for entry in zoo.ENTRIES]:
        path = Path(name)
        if path.suffix != ".onnx":
            yield name, zoo.path(name), zoo_data.feeds(name, 8, 1), zoo_data.feeds(name, 8, 2)
        elif path.with_suffix(".npz").exists():
            with np.load(path.with_suffix(".npz")) as arrays:
                feed = dict(arrays)
            yield path.stem, path, [feed], [feed]
        else:
            yield path.stem, path, "synthetic", None


def _loads(data: bytes, suffix: str, load: Callable[[str], Any]) -> str:
    """ "yes", "no: why", or "-" where the runtime is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"model{suffix}")
        Path(path).write_bytes(data)
        try:
            load(path)
        except ImportError:
            return "-"
        except Exception as error:
            return f"no: {one_line(error)[:60]}"
    return "yes"


def _openvino(path: str) -> Any:
    import openvino

    return openvino.Core().compile_model(path, "CPU")


def _peer(path: Path) -> tuple[str, str]:
    """Whether the result of onnxconverter-common loads in onnxruntime and in OpenVINO."""
    try:
        from onnxconverter_common import float16
    except ImportError:
        return "-", "-"
    try:
        data = float16.convert_float_to_float16(onnx.load(path), keep_io_types=True).SerializeToString()
    except Exception as error:
        return f"no: {one_line(error)[:60]}", "-"
    return _loads(data, ".onnx", ort_session), _loads(data, ".onnx", _openvino)


def _fidelity(path: Path, data: bytes, feeds: Any) -> float:
    """Decibels of the worst result over all samples."""
    ours, theirs = ort_session(data), ort_session(path)
    sums: dict[int, list[float]] = {}
    for feed in feeds:
        for i, (a, b) in enumerate(zip(theirs.run(None, feed), ours.run(None, feed))):
            if np.asarray(a).dtype.kind == "f":
                wrong = np.asarray(a, np.float64) - b
                signal, noise = sums.setdefault(i, [0.0, 0.0])
                sums[i] = [signal + float((np.asarray(a, np.float64) ** 2).sum()), noise + float((wrong**2).sum())]
    ratios = [10 * np.log10(s / n) if n else np.inf for s, n in sums.values() if s]
    return float(min(ratios, default=np.inf))


def main() -> int:
    """Print the table; 1 where a file does not load, is too large or too noisy without a reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--no-keep-io", action="store_true", help="inputs and results in float16, too")
    arguments = parser.parse_args()
    table = Table(
        "file", "size", "rounded dB", "dB unseen", "float32", "Casts", "onnxruntime", "OpenVINO", "peer", "its"
    )
    failed = 0
    for name, path, data, unseen in _cases(arguments.files):
        if not any(v.type is not None and "f32" in str(v.type) for n in load(path).graph.walk() for v in n.outputs):
            continue
        try:
            options = graphopt.Float16(keep_io=not arguments.no_keep_io)
            result = graphopt.optimize(path, precision=options, calibration=data)
        except graphopt.GraphoptError as error:
            table.add_row(name, f"refused: {error}")
            failed += 1
            continue
        stage = result.report.stages[0]
        content = result.model.SerializeToString()
        size = len(content) / path.stat().st_size
        runs, compiles = _loads(content, ".onnx", ort_session), _loads(content, ".onnx", _openvino)
        facts = stage.figures or {}
        unseen_db = "" if unseen is None or arguments.no_keep_io else f"{_fidelity(path, content, unseen):.1f}"
        rounded = facts.get("rounded_db")
        kept = f"{facts['nodes'] - facts['half']} of {facts['nodes']}" if facts else stage.summary
        their_run, their_compile = _peer(path)
        table.add_row(
            name, f"{size:.3f}", "" if rounded is None else f"{rounded:.1f}", unseen_db, kept,
            str(facts.get("casts", "")), runs, compiles, their_run, their_compile,
        )  # fmt: skip
        is_noisy = rounded is not None and rounded < SQNR and not stage.refused
        failed += runs != "yes" or compiles.startswith("no") or is_noisy
        print(f"{name}: {stage.summary}", file=sys.stderr, flush=True)
    Console(width=200).print(table)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
