"""`graphopt.search` on real models: accuracy of predictions, and comparison with random plans, TPE and fixed recipes.

`python -m tests.bench.search MODEL... [--budget 10m] [--alone] [--space A,B] [--out DIR]`; models: fashion_cnn and
fashion_mobilenet (with accuracy on held-out training images; printed picks are evaluated on the test images) and names
of the zoo (SQNR). For each: predicted and measured latency of the solved trials; the volume dominated by the front, by
random plans and by Optuna's TPE (the extra `bench`), each with the whole budget in the same space; whether
`quantize="static"` and onnxruntime's own quantizer in six settings are dominated or equalled; `pick(speedup=2)`.
--alone omits random plans and TPE; --space omits all decisions not named. docs/search.md has the figures of eight
models. One thread for BLAS (OPENBLAS_NUM_THREADS=1) is faster where others use the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import graphopt
from graphopt import onnx_io
from graphopt.errors import GraphoptError
from graphopt.recommendation.workbench import Workbench
from graphopt.searching.lane import MachineLane
from graphopt.searching.loop import Search
from graphopt.searching.plan import Plan
from graphopt.searching.point import Point, hypervolume
from graphopt.searching.trials import Trials
from graphopt.searching.words import METHODS, OBJECTIVES, RANKING, ROUNDING, SPACE, budget_named, space_named
from models import fashion
from tests import zoo
from tests.bench import ort_int8, zoo_data

SAMPLES = 64
FEW_DB, MANY_DB, DROP = (
    10.0,
    60.0,
    0.05,
)  # the quality that counts: from 10 dB on, above 60 none; five points of accuracy
SAME_INPUTS = {"minilm-float": "minilm-int8"}  # the float model is exported by tests.bench.minilm_int8
SLACK = 1.02  # what counts as equal in time and bytes: the width of a clear interval
Feeds = list[dict[str, np.ndarray]]


def case(name: str) -> tuple[Path, Feeds, Any]:
    """The file, samples and metric of a model."""
    if name.startswith("fashion"):
        with np.load(fashion.FOLDER / "fashion_calibration.npz") as archive:
            pool = archive["image"]
        feeds = [{"image": pool[i : i + 1]} for i in range(SAMPLES)]
        return fashion.FOLDER / f"{name}.onnx", feeds, fashion.accuracy
    return zoo.cache() / f"{name}.onnx", zoo_data.feeds(SAME_INPUTS.get(name, name), 16, 7), None


def start(name: str, folder: Path, space: Sequence[str]) -> Trials:
    """Trials of a model, with nothing tried."""
    path, feeds, metric = case(name)
    bench = Workbench(path, feeds, None, metric, "portable", 0)
    return Trials(bench, MachineLane(bench), OBJECTIVES, folder, {"space": space}, None)


def volume(points: Sequence[Point], original: Point) -> float:
    """The share of the box of what counts that points dominate: latency and size up to the original's, and quality."""
    values = []
    for point in (*points, original):
        if point.why or point.latency is None:
            continue
        decibels = (min(point.sqnr_db, MANY_DB) - FEW_DB) / (MANY_DB - FEW_DB)
        fall = None if original.metric is None else (original.metric - point.quality) / DROP
        values.append((point.latency, 1 - decibels if fall is None else max(0.0, fall), point.size / original.size))
    return hypervolume(values, (1.05, 1.0, 1.05))


def random_plans(sizes: Sequence[int]) -> Iterator[Plan]:
    rng = np.random.default_rng(0)
    while True:
        yield tuple(int(rng.integers(size)) for size in sizes)


def rival(name: str, kind: str, decisions: Any, shared: dict[str, str], seconds: float, folder: Path) -> list[Point]:
    """What random plans or TPE find in the whole budget; they get the decisions for nothing, and candidates are made as
    quickly."""
    trials = start(name, folder, SPACE)
    trials.original()
    sizes = [len(decision.choices) for decision in decisions.decisions]
    plans = random_plans(sizes)
    study = None
    if kind == "TPE":
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(directions=["minimize"] * 3, sampler=optuna.samplers.TPESampler(seed=0))
    while trials.seconds < seconds:
        trial = None if study is None else study.ask()
        if trial is None:
            plan = next(plans)
        else:
            plan = tuple(trial.suggest_int(str(k), 0, size - 1) for k, size in enumerate(sizes))
        point = next(iter(trials.run([{**decisions.recipe(plan), **shared}])))
        if study is not None and trial is not None:
            is_bad = point.why or point.latency is None
            study.tell(trial, [9.0, 100.0, 9e9] if is_bad else list(point.values(OBJECTIVES)))
    return trials.history


def peers(name: str, trials: Trials) -> Iterator[Point]:
    """`quantize="static"` and onnxruntime's own settings, measured as the trials were."""
    path, feeds, metric = case(name)
    files: dict[str, Any] = {}
    try:
        files["graphopt static"] = graphopt.optimize(path, quantize="static", calibration=trials.samples).ir
    except GraphoptError as error:
        print(f"graphopt static: {error}")
    for setting, file in ort_int8.variants(name, path, feeds[::2]).items():
        files[f"onnxruntime {setting}"] = onnx_io.load(file)
    for label, model in files.items():
        measured = trials.lane.latency(model)
        if measured is not None:
            size = len(onnx_io.to_proto(model).SerializeToString())
            yield Point(
                name=label, latency=measured.latency, error=measured.error, size=size,
                sqnr_db=trials.quality.fidelity(model).sqnr_db,
                metric=None if metric is None else trials.quality.score(model),
            )  # fmt: skip


def first_of_plan(points: Sequence[Point]) -> list[Point]:
    """The points whose plan no earlier one has: those that are made again with all care have a time that is known."""
    found: dict[str, Point] = {}
    for point in points:
        plan = {key: value for key, value in point.recipe.items() if key in ("layers", "channels")}
        found.setdefault(json.dumps(plan, sort_keys=True), point)
    return list(found.values())


def is_matched(peer: Point, points: Sequence[Point]) -> bool:
    """A point of the front is as good in everything: within two percent of bytes, of time, or two standard errors of
    both times where those are more; half a dB up to the quality from which on more counts nothing, or the metric's
    standard error."""
    slack = 0.5 if peer.metric is None else points[0].metric_error or 0.0
    wanted = min(peer.quality, MANY_DB) if peer.metric is None else peer.quality
    return any(
        point.latency is not None and peer.latency is not None
        and point.latency <= max(SLACK, 1 + 2 * math.hypot(point.error, peer.error)) * peer.latency
        and point.size <= SLACK * peer.size and point.quality >= wanted - slack
        for point in points
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--alone", action="store_true", help="without random plans and TPE")
    parser.add_argument("--space", help="words of the space, with commas")
    parser.add_argument("--out", type=Path, help="a folder that is kept, a search in each model's")
    given = parser.parse_args()
    space = space_named(given.space.split(",") if given.space else None)
    root = given.out or Path(tempfile.mkdtemp(prefix="graphopt-bench-"))
    for name in given.models:
        print(f"== {name}, {given.budget}", flush=True)
        path, feeds, _ = case(name)
        ort_int8.variants(name, path, feeds[::2])  # its processes are forked, before there are threads
        trials = start(name, root / name, space)
        budget = budget_named(given.budget)
        front = Search(trials, budget, space).run()
        print(front)
        solved = first_of_plan([p for p in front.history if p.predicted and not p.why and p.latency])
        if solved:
            predicted, measured = np.array([(p.predicted["latency"], p.latency) for p in solved]).T
            error = np.median(np.abs(predicted / measured - 1))
            rank = spearmanr(predicted, measured).statistic if len(solved) > 2 else float("nan")
            print(f"{len(solved)} solved trials: latency off by {error:.1%} in the median, rank correlation {rank:.3f}")
        try:
            _print_pick(name, front.pick(speedup=2), front.original)
        except GraphoptError as error:
            print(error)
        found = [*peers(name, trials)]
        for peer in found:
            matched = is_matched(peer, front.points)
            figures = f"{peer.speedup:.2f} ×, {peer.quality:.4g}, {peer.size} B"
            print(f"{peer.name}: {figures}: {'matched' if matched else 'NOT MATCHED'}")
        replace(front, peers=tuple(found)).write_page(root / f"{name}.html", name)
        own = volume(front.history[1:], front.original)
        print(f"volume of the search {own:.4f}", flush=True)
        if not given.alone and trials.tables is not None and budget.seconds:
            shared = {
                key: point.recipe[key]
                for point in solved
                for key in (METHODS, RANKING, ROUNDING)
                if key in point.recipe
            }
            for kind in ("random", "TPE"):
                points = rival(name, kind, trials.tables, shared, budget.seconds, root / f"{name}-{kind}")
                other = volume(points[1:], points[0])
                print(
                    f"volume of {kind} {other:.4f} ({len(points) - 1} trials): {own / max(other, 1e-9):.2f} ×",
                    flush=True,
                )
    if given.out is None:
        shutil.rmtree(root)


def _print_pick(name: str, point: Point, original: Point) -> None:
    """A pick, and what it costs on data that the search never saw."""
    held = f"{point.held_db:.1f} dB held out" if point.held_db is not None else ""
    print(f"pick(speedup=2): {point.name}, {point.speedup:.2f} ×, {held}")
    if name.startswith("fashion"):
        from graphopt.measure import ort_session

        path, _, _ = case(name)
        before, after = (fashion.test_accuracy(ort_session(file, threads=0)) for file in (path, point.path))
        print(
            f"  holdout {100 * (original.quality - point.quality):.2f} points lost, test {100 * (before - after):.2f}"
        )


if __name__ == "__main__":
    main()
