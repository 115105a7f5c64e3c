"""The Session beside onnxruntime on the same file: `python -m tests.bench.session_ratio FILE … [--warm] [--rows FILE]`.

Every FILE is a model with its inputs beside it, as .npz of the same name or of the name before "__". One row per file:
the ratio to onnxruntime with predicted placement, ignoring earlier warm-ups, and, with --warm, after a warm-up; the
regions on kernels. One thread, seconds of that thread, interleaved; a ratio that looks like a loss is measured again,
each time for longer, and the median counts. Since repeats stop at the first ratio above 1, a file that runs entirely in
onnxruntime counts as at most 1 in means, unless stored weights are dequantized at load time. Then geometric means, of
all files and of convolutional ones, the worst file, and those that break the bar: below SLOWER, and for runs under
SHORT by more than SLACK. Where a warm-up changes the regions, sessions with both placements are measured against each
other. Where the regions stay the same the warm-up did no harm: a ratio below SLOWER times the earlier one is noise,
which is counted separately. `tests.bench.strangers` measures its rows likewise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import Session
from graphopt.measure import compare_latency, geometric_mean, ort_session, own_clock
from graphopt.measure.macs import node_macs
from graphopt.onnx_io import load
from graphopt.runtime.cache.manifest import COMPUTED
from graphopt.runtime.place.lowered_model import Kernels
from graphopt.runtime.place.measured import region_digest
from graphopt.runtime.warmup import warmup

SLOWER, SHORT, SLACK = 0.97, 100e-6, 5e-6
"""The bar: the Session is slower below this ratio; in runs of fewer seconds than SHORT, where it takes SLACK more."""
AGAIN = 5
"""The most times that a ratio is measured."""

Row = dict[str, Any]


def clear_ratio(
    candidates: Mapping[str, Any], feed: Mapping[str, Any], seconds: float,
    again: Callable[[], Mapping[str, Any]] | None = None,
) -> tuple[float, float]:  # fmt: skip
    """How many times as fast the second is as the first, and how many seconds more it takes.

    `again` opens both anew before they are measured again: where the weights of a session lie in memory, it keeps for
    life. Of two sessions of onnxruntime on one file of 38 MB one takes 0.96 to 1.03 of the other's time.
    """
    found: list[tuple[float, float]] = []
    while True:
        if found and again is not None:
            candidates = again()
        first, second = compare_latency(candidates, feed, seconds=seconds * (1 + len(found)), clock=own_clock())
        found.append((second.ratio, second.median - first.median))
        ratios, more = zip(*found)
        if len(found) == AGAIN or statistics.median(ratios) >= 1.0:
            return statistics.median(ratios), statistics.median(more)


def is_convolutional(path: Path) -> bool:
    """More than half of its multiply-accumulates are of convolutions."""
    macs = {node: node_macs(node) for node in load(path).graph.walk()}
    return 2 * sum(count for node, count in macs.items() if "Conv" in node.op) > sum(macs.values())


def measure(path: Path, seconds: float, warm: bool) -> Row:
    """One row."""
    fed = path.with_suffix(".npz")
    feeds = dict(np.load(fed if fed.exists() else path.with_name(path.stem.split("__")[0] + ".npz")))

    def opened(kernels: Kernels = "predicted") -> dict[str, Any]:
        return {"onnxruntime": ort_session(str(path)), "session": Session(path, 1, kernels=kernels)}

    candidates = opened()
    session = candidates["session"]
    feeds = {one.name: feeds[one.name] for one in session.get_inputs()}
    ratio, more = clear_ratio(candidates, feeds, seconds, opened)
    row: Row = {"file": path.stem, "session": ratio, "session more": more, "regions": len(session.regions)}
    row["computed"] = COMPUTED in session.describe().verdict
    row["convolutional"] = is_convolutional(path)
    if warm:
        row.update(warmed(path, partial(opened, None), feeds, seconds))
    return row


def warmed(
    model: Path | bytes, opened: Callable[[], Mapping[str, Any]], feeds: Mapping[str, Any], seconds: float
) -> Row:  # fmt: skip
    """What a row says of a warm-up, after that; `opened` gives onnxruntime and the Session as it is then."""
    row: Row = {}
    begun = time.perf_counter()
    warmup(model, feeds, threads=1, seconds=seconds)
    row["warmup seconds"] = time.perf_counter() - begun
    row["warm"], row["warm more"] = clear_ratio(opened(), feeds, seconds, opened)

    def both() -> dict[str, Session]:
        return {"cold": Session(model, 1, kernels="predicted"), "warm": Session(model, 1)}

    sessions = both()
    cold, warm = ([region_digest(region.segment) for region in one.regions] for one in sessions.values())
    row["warm regions"], row["same regions"] = len(warm), cold == warm
    if cold != warm:
        row["warm over cold"], _ = clear_ratio(sessions, feeds, seconds, both)
    return row


def breaks_bar(row: Row, key: str) -> bool:
    """Whether the Session is slower than the bar allows; rows without seconds have no slack."""
    if key not in row or row[key] >= SLOWER:
        return False
    more = row.get(f"{key} more")
    seconds = 0.0 if more is None else more / (1 / row[key] - 1)
    return more is None or seconds >= SHORT or bool(more > SLACK)


def _counted(row: Row, key: str) -> float:
    """A ratio as it counts in means."""
    regions = row.get("warm regions" if key == "warm" else "regions", 1) or row.get("computed")
    return float(row[key] if regions else min(1.0, row[key]))


def summary(found: Sequence[Row]) -> Iterator[str]:
    """Geometric means, the worst file, and what breaks the bar, without and with warm-up."""
    for key, what in (("session", "without warm-up"), ("warm", "after warm-up")):
        for kind, rows in (("all", found), ("convolutional", [row for row in found if row.get("convolutional")])):
            ratios = [_counted(row, key) for row in rows if key in row]
            if ratios:
                worst = min((row for row in rows if key in row), key=lambda row: float(row[key]))
                yield (
                    f"Session over onnxruntime {what}, {kind}: mean {geometric_mean(ratios):.3f} of {len(ratios)}, "
                    f"worst {worst[key]:.3f} ({worst['file']} {worst.get('form', '')})"
                )
        slow = [f"{row['file']} {row.get('form', '')} {row[key]:.3f}" for row in found if breaks_bar(row, key)]
        if slow:
            yield f"slower {what}: {'; '.join(slow)}"
    rows = [row for row in found if "same regions" in row]
    if rows:
        noise = sum(_counted(row, "warm") < SLOWER * _counted(row, "session") for row in rows if row["same regions"])
        other = [row for row in rows if not row["same regions"]]
        worse = [f"{row['file']} {row.get('form', '')}" for row in other if row["warm over cold"] < SLOWER]
        mean = geometric_mean([row["warm over cold"] for row in other]) if other else 1.0
        yield (
            f"warm-up: the same regions in {len(rows) - len(other)} of {len(rows)}, {noise} of them below {SLOWER} of "
            f"the ratio before; other regions in {len(other)}, mean {mean:.3f} of the speed before, made worse: "
            f"{'; '.join(worse) or 'none'}; at most {max(row['warmup seconds'] for row in rows):.0f} s"
        )


def main() -> None:
    """Print a row as soon as it is known, then the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=0.2, help="time for each session")
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--rows", type=Path, help="where rows are kept; without files, those there are summed up")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    found: list[Row] = []
    for path in arguments.files:
        try:
            found.append(measure(path, arguments.seconds, arguments.warm))
        except Exception as error:  # one model that fails costs its own row
            print(f"# {path.stem}: {str(error)[:100]}")
            continue
        row = found[-1]
        told = f"{row['session']:6.3f} {row['regions']:3}"
        if "warm" in row:
            told += f"  warm {row['warm']:6.3f} {row['warm regions']:3} "
            told += "same regions" if row["same regions"] else f"{row['warm over cold']:.3f} of the speed before"
        print(f"{row['file']:44} {told}{' convolutional' if row['convolutional'] else ''}", flush=True)
        if arguments.rows:
            with arguments.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
    if arguments.rows and not arguments.files:
        found = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
    print("\n".join(summary(found)))


if __name__ == "__main__":
    main()
