"""Half precision of whole files: `python -m tests.bench.float16 [--every N] [FILE or zoo name …]`.

Per file: our result's size relative to the file's, exporter metadata of nodes and values excluded from both; the
fidelity of float32 arithmetic with values rounded to float16 (as in a runtime with half-precision kernels) and of the
file in onnxruntime on unseen inputs, nodes that stay float32, Casts; whether onnxruntime and OpenVINO load it, and the
same for onnxconverter-common's converter (each skipped where not installed). FILE.onnx takes its inputs from FILE.npz
beside it, or made-up inputs. --every N takes every Nth file by name. At the end, the number of files that meet each
bar.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


def _size(model: onnx.ModelProto) -> int:
    """Bytes without notes of the exporter: torch's take up to two thirds of a small file, and are kept as they are."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
    return int(model.ByteSize())


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


@dataclass(frozen=True)
class _Row:
    """What became of one file. rounded, unseen: decibels, None where they were not measured. kept: how many nodes of
    those with floats stay float32, in words. peer: whether the other converter's file loads in each runtime."""

    name: str
    size: float
    rounded: float | None
    unseen: float | None
    kept: str
    casts: str
    loads: tuple[str, str]
    peer: tuple[str, str]
    names_kept: bool

    @property
    def is_close(self) -> bool:
        """The floor is met, or the report names what stays float32."""
        found = [db for db in (self.rounded, self.unseen) if db is not None]
        return self.names_kept or (bool(found) and min(found) >= SQNR)

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of the table."""
        rounded, unseen = ("" if db is None else f"{db:.1f}" for db in (self.rounded, self.unseen))
        return (self.name, f"{self.size:.3f}", rounded, unseen, self.kept, self.casts, *self.loads, *self.peer)


def _row(name: str, path: Path, data: Any, unseen: Any, keep_io: bool) -> _Row:
    """Convert a file by both, and look at the results. GraphoptError where ours is refused."""
    result = graphopt.optimize(path, precision=graphopt.Float16(keep_io=keep_io), calibration=data)
    stage, content = result.report.stages[0], result.model.SerializeToString()
    facts = stage.figures or {}
    print(f"{name}: {stage.summary}", file=sys.stderr, flush=True)
    return _Row(
        name, _size(result.model) / _size(onnx.load(path)), facts.get("rounded_db"),
        None if unseen is None or not keep_io else _fidelity(path, content, unseen),
        f"{facts['nodes'] - facts['half']} of {facts['nodes']}" if facts else stage.summary,
        str(facts.get("casts", "")),
        (_loads(content, ".onnx", ort_session), _loads(content, ".onnx", _openvino)), _peer(path), bool(stage.refused),
    )  # fmt: skip


def main() -> int:
    """Print the table and the counts; 1 where a file does not load, is too large or too noisy without a reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth of the files, by name")
    parser.add_argument("--no-keep-io", action="store_true", help="inputs and results in float16, too")
    arguments = parser.parse_args()
    table = Table(
        "file", "size", "rounded dB", "dB unseen", "float32", "Casts", "onnxruntime", "OpenVINO", "peer", "its"
    )
    rows, refused = list[_Row](), 0
    for name, path, data, unseen in _cases(sorted(arguments.files)[:: arguments.every]):
        if not any(v.type is not None and "f32" in str(v.type) for n in load(path).graph.walk() for v in n.outputs):
            continue
        try:
            rows.append(_row(name, path, data, unseen, not arguments.no_keep_io))
        except graphopt.GraphoptError as error:
            table.add_row(name, f"refused: {error}")
            refused += 1
        else:
            table.add_row(*rows[-1].cells)
    Console(width=200).print(table)
    bars = {
        "load in onnxruntime": [row.loads[0] == "yes" for row in rows],
        "in OpenVINO": [row.loads[1] == "yes" for row in rows],
        f"{SQNR:g} dB or named": [row.is_close for row in rows],
        f"size at most {SIZE:g}": [row.size <= SIZE for row in rows],
        "its load in onnxruntime": [row.peer[0] == "yes" for row in rows],
        "its in OpenVINO": [row.peer[1] == "yes" for row in rows],
    }
    print("; ".join(f"{what}: {sum(held)} of {len(rows) + refused}" for what, held in bars.items()))
    is_wrong = any(row.loads[0] != "yes" or row.loads[1].startswith("no") or not row.is_close for row in rows)
    return int(is_wrong or refused > 0 or any(row.size > SIZE for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
