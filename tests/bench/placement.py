"""Fit the rates for placing regions, `graphopt/runtime/place/rates.py`: `python -m tests.bench.placement FILE …`.

Every FILE is a quantized model with its inputs beside it, as .npz of the same name or of the name before "__". Each of
its regions is timed on kernels and in onnxruntime, and so is the whole file (seconds of this thread, interleaved); one
row per file compares the times. `--rows FILE` saves measurements, `--fit` measures nothing and prints the rates that
explain the rows best, with their errors on held-out models: 5-fold cross-validation over architectures. A speed factor
per file, since other work on the machine slows whole files down, is fitted along with the rates and predicted by none
of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.ir import Model, Node, Value
from graphopt.kernels import select_level
from graphopt.measure import interleaved, ort_session, own_clock
from graphopt.onnx_io import load
from graphopt.onnx_io.emit import Emitter
from graphopt.runtime.execute.region import Region
from graphopt.runtime.lower.lowering import lower
from graphopt.runtime.lower.ort_types import add_types_from_ort
from graphopt.runtime.place.assumed import Shapes
from graphopt.runtime.place.cost import region_nodes
from graphopt.runtime.place.measured import region_digest
from graphopt.runtime.place.partition import Partitions, Segment, constant_nodes
from graphopt.runtime.place.rates import OTHER, WHOLE
from graphopt.runtime.place.stock import stock_work
from graphopt.runtime.place.work import BORDER, FEATURES, Work, border_work, region_work
from graphopt.runtime.session import Session

MOST = 14
"""Regions of a file that are timed; most repeat the layers of those before."""

SIDES = ("kernels", "onnxruntime")

TYPICAL = {
    "kernels": (0.7, 1.5e-4, 3e-4, 2e-4, 6e-6), "onnxruntime": (1.3, 2e-4, 5e-4, 3e-4, 1e-5),
}  # fmt: skip
"""Microseconds of one of each of FEATURES in no class in particular: what the rows do not tell stays near these."""

FLOAT_MAC, DEPTHWISE_MAC = 6e-5, 3e-4
"""The same of a multiply-accumulate of float32, and of one where each channel has a window of its own."""

LRN_OUTPUT = 2.6e-2
"""The same of an element that LRN writes in onnxruntime: of one node of 5 channels, timed alone."""

FLOAT_PRODUCTS = frozenset((
    "FloatMatMul", "MatMul", "MatMul of two", "Gemm", "Conv", "Conv pointwise", "Conv groups", "LSTM", "GRU",
))  # fmt: skip
"""Classes of products of float32; the kernels' class Conv is of integers, of which its rows tell."""

FREE = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape"))
"""Classes that write nothing, or next to nothing."""

TRUST = 0.03
"""How many rows TYPICAL counts as."""

Row = dict[str, Any]
Rates = dict[str, list[float]]


def measure(path: Path, seconds: float) -> Row:
    """Times of a file and of its regions, with their work on both sides."""
    fed = path.with_suffix(".npz")
    feeds = dict(np.load(fed if fed.exists() else path.with_name(path.stem.split("__")[0] + ".npz")))
    session, stock = Session(path, 1, kernels=True), ort_session(str(path))
    feeds = {one.name: feeds[one.name] for one in session.get_inputs()}
    runs = {"onnxruntime": lambda: stock.run(None, feeds), "kernels": lambda: session.run(None, feeds)}
    whole, ours = interleaved(runs, seconds=8 * seconds, clock=own_clock())
    model = load(path)
    add_types_from_ort(model)
    shapes = shapes_in_run(model, feeds)
    segments = Partitions(model.graph, lower(model.graph)).without(())
    own = {region_digest(segment): segment for segment in segments if segment.is_region}
    regions: dict[str, Row] = {}
    for region, arrays in session.region_inputs(feeds).items() if session.regions else ():
        digest = region_digest(region.segment)
        if digest in regions:
            regions[digest]["count"] += 1
        elif len(regions) < MOST and region.executable(tuple(array.shape for array in arrays)) is not None:
            regions[digest] = {"count": 1, **_region(region, arrays, own[digest], shapes, seconds)}
    constant = constant_nodes(model.graph)
    work = stock_work((node for node in model.graph if node not in constant), shapes)
    return {
        "file": path.stem, "level": select_level().name, "onnxruntime": whole.median, "kernels": ours.median,
        "ratio": ours.ratio, "work": {**work, WHOLE: [1.0, 0.0, 0.0, 0.0, 0.0]}, "regions": list(regions.values()),
        "rest": [stock_work((u for u in s.units if isinstance(u, Node) and u not in constant), shapes)
                 for s in segments if not s.is_region],
    }  # fmt: skip


def shapes_in_run(model: Model, feeds: Mapping[str, Any]) -> dict[Value, tuple[int, ...]]:
    """The shapes of a model's values in a run on these feeds."""
    emitter = Emitter(model)
    proto = emitter.model()
    outside = {value.name for value in (*proto.graph.output, *proto.graph.input)}
    inner = [name for node in proto.graph.node for name in node.output if name and name not in outside]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    session = ort_session(proto.SerializeToString(), optimize=False)
    names = [one.name for one in session.get_outputs()]
    found = {name: np.shape(array) for name, array in zip(names, session.run(names, dict(feeds)))}
    found.update({name: np.shape(array) for name, array in feeds.items()})
    found.update({one.name: tuple(one.dims) for one in proto.graph.initializer})
    return {emitter.values[name]: shape for name, shape in found.items() if name in emitter.values}


def _region(
    region: Region, arrays: Sequence[Any], segment: Segment, shapes: Mapping[Value, Any], seconds: float
) -> Row:  # fmt: skip
    stock = region.in_onnxruntime()
    runs = {"onnxruntime": lambda: stock.run(arrays), "kernels": lambda: region.run(arrays)}
    ort, kernels = interleaved(runs, seconds=seconds, clock=own_clock())
    known = Shapes({**shapes, **dict(zip(segment.inputs, (array.shape for array in arrays)))})
    for operation in segment.operations:
        known.add(operation)
    nodes = stock_work(region_nodes(segment.operations), known.known)
    work = {"kernels": region_work(segment, known.known), "onnxruntime": {**nodes, **border_work(segment, known.known)}}
    return {"kernels": kernels.median, "onnxruntime": ort.median, "work": work}


def rates_of(files: Sequence[Row], rounds: int = 3) -> dict[str, Rates]:
    """The rates of both sides, each file's own speed found with them."""
    speeds = dict.fromkeys((file["file"] for file in files), 1.0)
    for _ in range(rounds):
        rows = {side: [(w, t / speeds[name]) for name, w, t in _told(files, side)] for side in SIDES}
        rates = {side: with_other(fit(rows[side], side), side) for side in SIDES}
        offs: dict[str, list[float]] = {name: [] for name in speeds}
        for side in SIDES:
            for name, work, taken in _told(files, side):
                offs[name].append(float(np.log(taken / seconds_of(work, rates[side]))))
        for name, logs in offs.items():  # few times tell little of a speed
            speeds[name] = float(np.exp(np.median(logs) * len(logs) / (len(logs) + 2))) if logs else 1.0
    return rates


def _told(files: Sequence[Row], side: str) -> Iterator[tuple[str, Work, float]]:
    """The work and the seconds of all that was timed on one side, by file."""
    for file in files:
        for region in file["regions"]:
            yield file["file"], region["work"][side], region[side]
        if side == "onnxruntime":
            yield file["file"], file["work"], file[side]


def fit(rows: Sequence[tuple[Work, float]], side: str) -> Rates:
    """Microseconds of each feature by class: the least absolute relative errors, TYPICAL for what rows do not tell."""
    kinds = sorted({kind for work, _ in rows for kind in work})
    table = np.array([[n for kind in kinds for n in work.get(kind, [0.0] * len(FEATURES))] for work, _ in rows])
    typical = np.array([number for kind in kinds for number in _typical(kind, side)])
    table *= 1e-6 * typical / np.array([taken for _, taken in rows])[:, None]
    found, weights = np.ones(len(typical)), np.ones(len(rows))
    for _ in range(8):  # of least squares, by which absolute errors are minimised
        gram = table.T @ (table * weights[:, None]) + TRUST * np.eye(len(found))
        wanted = table.T @ weights + TRUST
        for _ in range(40):
            for index in range(len(found)):
                change = (wanted[index] - gram[index] @ found) / gram[index, index]
                found[index] = max(0.02, found[index] + change)
        weights = 0.1 / np.maximum(np.abs(table @ found - 1), 0.1)
    return {kind: list(part) for kind, part in zip(kinds, (found * typical).reshape(-1, len(FEATURES)))}


def _typical(kind: str, side: str) -> list[float]:
    call, read, written, unfolded, mac = TYPICAL[side]
    if kind in (BORDER, WHOLE):
        return [8.0 if side == "kernels" else 5.0, 1e-4, 1e-4, unfolded, mac]
    if "depthwise" in kind:
        mac = DEPTHWISE_MAC
    elif kind in FLOAT_PRODUCTS:
        mac = FLOAT_MAC
    if kind in FREE:
        written = 1e-5
    elif kind == "LRN":
        written = LRN_OUTPUT
    return [call, read, written, unfolded, mac]


def seconds_of(work: Work, rates: Rates) -> float:
    """The predicted time of work on one side."""
    return 1e-6 * sum(
        rate * number for kind, ns in work.items() for rate, number in zip(rates.get(kind, rates[OTHER]), ns)
    )


def with_other(rates: Rates, side: str) -> Rates:
    """The rates with those of operations that no row had."""
    return {**rates, OTHER: list(TYPICAL[side])}


def check(files: Sequence[Row]) -> None:
    """Print the errors on architectures that rates were not fitted to, and of whole sessions."""
    families = sorted({_family(file) for file in files})
    off: dict[str, list[float]] = {"regions, kernels over onnxruntime": [], "whole files in onnxruntime": []}
    for fifth in range(5):
        away = set(families[fifth::5])
        rates = rates_of([file for file in files if _family(file) not in away])
        for file in files:
            if _family(file) not in away:
                continue
            for region in file["regions"]:
                found = [seconds_of(region["work"][side], rates[side]) / region[side] for side in SIDES]
                off["regions, kernels over onnxruntime"].append(abs(float(np.log(found[0] / found[1]))))
            whole = seconds_of(file["work"], rates["onnxruntime"]) / file["onnxruntime"]
            off["whole files in onnxruntime"].append(abs(float(np.log(whole))))
    for what, errors in off.items():
        print(f"# {what}: median error {np.median(errors):.0%}, 90 % below {np.quantile(errors, 0.9):.0%}")


def _family(file: Row) -> str:
    return str(file["file"]).split("-")[0].split("__")[0]


def cut(files: Sequence[Row], rates: dict[str, Rates]) -> tuple[float, ...]:
    """What explains the times of sessions with all regions: factors of their time on kernels and of the rest in
    onnxruntime, and microseconds of each segment there."""
    rows, times = [], []
    for file in files:
        if not file["regions"] or len(file["regions"]) >= MOST:
            continue
        speed = file["onnxruntime"] / seconds_of(file["work"], rates["onnxruntime"])
        kernels = sum(r["count"] * seconds_of(r["work"]["kernels"], rates["kernels"]) for r in file["regions"])
        rest = sum(seconds_of(work, rates["onnxruntime"]) for work in file["rest"])
        rows.append((kernels, rest, 1e-6 * len(file["rest"])))
        times.append(file["kernels"] / speed)
    table = np.array(rows) / np.array(times)[:, None]
    weights = np.ones(len(table))
    for _ in range(8):
        scaled = table * weights[:, None]
        found = np.linalg.lstsq(scaled, weights, rcond=None)[0]
        weights = 1 / np.sqrt(np.maximum(np.abs(table @ found - 1), 0.1))
    return tuple(float(number) for number in found)


def show(files: Sequence[Row], checked: bool) -> None:
    """Print the table, and the errors."""
    if checked:
        check(files)
    rates = rates_of(files)
    between, apart, segment = cut(files, rates)
    print(f"# BETWEEN {between:.2f}, CUT {apart:.2f}, SEGMENT {segment:.0f} µs")
    for side in SIDES:
        print(f"{side}:")
        for kind, numbers in rates[side].items():
            told = ", ".join(f"{1e3 * rate:.3g}" for rate in numbers)
            print(f'    "{kind}": ({told}),')


def main() -> None:
    """Measure, or fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=0.05, help="time for each region in either runtime")
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--no-check", action="store_true", help="only print the rates")
    arguments = parser.parse_args()
    for path in arguments.files:
        try:
            row = measure(path, arguments.seconds)
        except Exception as error:  # one model that fails costs its own row
            print(f"# {path.stem}: {str(error)[:80]}")
            continue
        print(f"{path.stem:40} {row['ratio']:.2f}", flush=True)
        with arguments.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
    if arguments.fit:
        show([json.loads(line) for line in arguments.rows.read_text().splitlines()], not arguments.no_check)


if __name__ == "__main__":
    main()
