"""Rates by which regions are placed, `graphopt/runtime/place/rates.py`: `python -m tests.bench.placement FILE …`.

Every FILE is a quantized model with its inputs beside it, as .npz of the same name or of the name before "__". Each of
its regions is timed on kernels and in onnxruntime, and so is the whole file (seconds of this thread, interleaved); a
row a file says how the times compare. `--rows FILE` keeps what was measured, `--fit` measures nothing and prints the
rates that explain the rows best, with their errors on models that they were not fitted to: the errors of each tenth
model are those of rates fitted to the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.kernels import select_level
from graphopt.measure import interleaved, ort_session, own_clock
from graphopt.runtime.compile.region_compiler import infer_shapes
from graphopt.runtime.execute.region import Region
from graphopt.runtime.place.measured import region_digest
from graphopt.runtime.place.rates import OTHER
from graphopt.runtime.place.work import BORDER, FEATURES, Work, region_work
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

TRUST = 0.03
"""How many rows TYPICAL counts as."""

Row = dict[str, Any]


def measure(path: Path, seconds: float) -> Row:
    """Times of a file and of its regions, with their work on both sides."""
    fed = path.with_suffix(".npz")
    feeds = dict(np.load(fed if fed.exists() else path.with_name(path.stem.split("__")[0] + ".npz")))
    session, stock = Session(path, 1, kernels=True), ort_session(str(path))
    feeds = {one.name: feeds[one.name] for one in session.get_inputs()}
    runs = {"onnxruntime": lambda: stock.run(None, feeds), "kernels": lambda: session.run(None, feeds)}
    whole, ours = interleaved(runs, seconds=8 * seconds, clock=own_clock())
    regions: dict[str, Row] = {}
    for region, arrays in session.region_inputs(feeds).items() if session.regions else ():
        digest = region_digest(region.segment)
        if digest in regions:
            regions[digest]["count"] += 1
        elif len(regions) < MOST and region.executable(tuple(array.shape for array in arrays)) is not None:
            regions[digest] = {"count": 1, **_region(region, arrays, seconds)}
    parts = len(session.describe().parts)
    return {
        "file": path.stem, "level": select_level().name, "onnxruntime": whole.median, "kernels": ours.median,
        "ratio": ours.ratio, "stock": parts - len(session.regions), "regions": list(regions.values()),
    }  # fmt: skip


def _region(region: Region, arrays: Sequence[Any], seconds: float) -> Row:
    stock, segment = region.in_onnxruntime(), region.segment
    runs = {"onnxruntime": lambda: stock.run(arrays), "kernels": lambda: region.run(arrays)}
    ort, kernels = interleaved(runs, seconds=seconds, clock=own_clock())
    shapes = infer_shapes(segment.operations, segment.inputs, [array.shape for array in arrays])
    work = dict(zip(SIDES, region_work(segment, shapes)))
    return {"kernels": kernels.median, "onnxruntime": ort.median, "work": work}


def fit(rows: Sequence[Row], side: str) -> dict[str, list[float]]:
    """Microseconds of each feature by class: the least absolute relative errors, TYPICAL for what rows do not tell."""
    kinds = sorted({kind for row in rows for kind in row["work"][side]})
    table = np.array(
        [[n for kind in kinds for n in row["work"][side].get(kind, [0.0] * len(FEATURES))] for row in rows]
    )
    typical = np.array([number for kind in kinds for number in _typical(kind, side)])
    table *= 1e-6 * typical / np.array([row[side] for row in rows])[:, None]
    found, weights = np.ones(len(typical)), np.ones(len(rows))
    for _ in range(12):  # of least squares, by which absolute errors are minimised
        gram = table.T @ (table * weights[:, None]) + TRUST * np.eye(len(found))
        wanted = table.T @ weights + TRUST
        for _ in range(100):
            for index in range(len(found)):
                change = (wanted[index] - gram[index] @ found) / gram[index, index]
                found[index] = max(0.02, found[index] + change)
        weights = 0.1 / np.maximum(np.abs(table @ found - 1), 0.1)
    return {kind: list(part) for kind, part in zip(kinds, (found * typical).reshape(-1, len(FEATURES)))}


def _typical(kind: str, side: str) -> list[float]:
    call, read, written, unfolded, mac = TYPICAL[side]
    if kind == BORDER:
        return [8.0 if side == "kernels" else 5.0, 1e-4, 1e-4, unfolded, mac]
    if "depthwise" in kind:
        mac = DEPTHWISE_MAC
    elif kind == "FloatMatMul":
        mac = FLOAT_MAC
    return [call, read, written, unfolded, mac]


def seconds_of(work: Work, rates: dict[str, list[float]]) -> float:
    """The predicted time of one side of a region."""
    return 1e-6 * sum(
        rate * number for kind, ns in work.items() for rate, number in zip(rates.get(kind, rates[OTHER]), ns)
    )


def with_other(rates: dict[str, list[float]], side: str) -> dict[str, list[float]]:
    """The rates with those of operations that no row had."""
    return {**rates, OTHER: list(TYPICAL[side])}


def errors(rows: Sequence[Row]) -> Iterable[tuple[Row, float, float]]:
    """The regions with their predicted times on both sides, by rates that their model had no part in."""
    families = sorted({row["family"] for row in rows})
    for tenth in range(10):
        away = set(families[tenth::10])
        rates = {side: with_other(fit([r for r in rows if r["family"] not in away], side), side) for side in SIDES}
        for row in rows:
            if row["family"] in away:
                kernels, stock = (seconds_of(row["work"][side], rates[side]) for side in SIDES)
                yield row, kernels, stock


def show(files: Sequence[Row], check: bool) -> None:
    """Print the table, and the errors."""
    rows = [{**region, "family": file["file"].split("-")[0]} for file in files for region in file["regions"]]
    if check:
        found = list(errors(rows))
        for side, index in (("kernels", 1), ("onnxruntime", 2)):
            off = [abs(np.log(one[index] / one[0][side])) for one in found]
            print(f"# {side}: median error {np.median(off):.0%}, 90 % below {np.quantile(off, 0.9):.0%}")
        chosen = [row["onnxruntime"] / row["kernels"] for row, k, o in found if k <= 0.9 * o]
        left = [row["onnxruntime"] / row["kernels"] for row, k, o in found if k > 0.9 * o]
        slow, fast = sum(r < 0.97 for r in chosen), sum(r > 1.1 for r in left)
        print(f"# of {len(chosen)} regions chosen {slow} are slower, of {len(left)} left {fast} are faster by 1.1")
    borders = []
    for file in files:
        if file["regions"] and len(file["regions"]) < MOST:
            gained = sum(r["count"] * (r["kernels"] - r["onnxruntime"]) for r in file["regions"])
            borders.append((file["kernels"] - file["onnxruntime"] - gained) / (file["stock"] + 1))
    print(f"# a part costs {1e6 * statistics.median(borders):.1f} µs more than its region")
    for side in SIDES:
        print(f"{side}:")
        for kind, rates in with_other(fit(rows, side), side).items():
            told = ", ".join(f"{1e3 * rate:.3g}" for rate in rates)
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
