"""Whole searches of tiny models, with times from a table."""

from __future__ import annotations

import json
import math
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import graphopt
from graphopt import searching
from graphopt.cli import app
from graphopt.errors import InputError, OptionError, OutputError
from graphopt.measure import ort_session
from graphopt.parallel import executor_of
from graphopt.passes.prune import stage
from graphopt.recommendation.workbench import Workbench
from graphopt.searching import building, lane, loop, structure
from graphopt.searching.building import Builder, recipe_of
from graphopt.searching.loop import Search
from graphopt.searching.plan import describe
from graphopt.searching.structure import structure_of
from graphopt.searching.trials import Trials
from graphopt.searching.words import OBJECTIVES, budget_named, space_named
from tests.quantize.nets import convnet, images
from tests.search import lanes
from tests.search.lanes import TableLane
from tests.search.nets import branched

SPACE = ("static int8", "weights8", "channels")


def run(out, budget="9 trials", *, model=None, executor=None, metric=None, timer=None, space=SPACE, count=8):
    bench = Workbench(convnet() if model is None else model, images(count), None, metric, "portable", 0)
    words = space_named(space)
    trials = Trials(bench, timer or TableLane(), OBJECTIVES, out, {"space": words}, executor)
    return Search(trials, budget_named(budget), words).run()


def plain(front):
    """What must not depend on who built it."""
    return [(p.name, json.dumps(p.recipe), p.latency, p.sqnr_db, p.size, p.why) for p in front.history]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    return folder, run(folder)


def test_a_front_of_models_that_run(searched):
    folder, front = searched
    assert len(front.history) == 10 and front.original.is_original and len(front.points) > 3
    for point in front.points[1:]:
        session = ort_session(Path(point.path))
        assert all(np.isfinite(r).all() for r in session.run(None, images(1)[0]))
        assert point.size == Path(point.path).stat().st_size
        assert (point.held_db is None) is math.isinf(point.sqnr_db)
    assert {p.name for p in folder.glob("*.onnx")} == {Path(p.path).name for p in front.points[1:]}
    assert json.loads((folder / "front.json").read_text())["points"][0]["name"] == "original"
    assert "<circle" in (folder / "front.html").read_text()


def test_solved_trials_have_predictions_near_what_was_measured(searched):
    _, front = searched
    solved = [p for p in front.history if p.predicted and not p.why]
    assert len(solved) >= 2
    assert np.median([abs(p.predicted["latency"] / p.latency - 1) for p in solved]) < 0.1
    assert np.median([abs(p.predicted["size"] / p.size - 1) for p in solved]) < 0.1


def test_a_recipe_makes_its_point_again(searched):
    _, front = searched
    point = front.points[1]
    samples = [feed for at, feed in enumerate(images(8)) if at % 4 in (0, 2)]
    again = graphopt.optimize(convnet(), recipe=Path(point.path).with_suffix(".toml"), calibration=samples)
    assert onnx.load(point.path).graph == again.model.graph


def test_picks_come_from_the_search(searched):
    _, front = searched
    fastest = min(point.latency for point in front.points)
    assert front.pick(speedup=0.99 / fastest).latency == fastest
    predicted = front.pick(speedup=0.9 / fastest, measured=False)
    assert predicted.latency <= fastest / 0.9 and predicted.recipe


def test_the_same_recipes_whoever_builds_them(searched, tmp_path):
    _, front = searched
    with ThreadPoolExecutor(2) as two:
        threads = run(tmp_path / "threads", executor=two)
    assert plain(threads) == plain(front)


class _Dying(Executor):
    """An executor whose workers are killed."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        future.set_exception(BrokenExecutor("a worker was killed"))
        return future


def test_dead_workers_cost_no_trial(searched, tmp_path):
    _, front = searched
    alone = run(tmp_path, executor=_Dying())
    assert plain(alone) == plain(front) and any("workers are gone" in note for note in alone.notes)


def test_a_search_that_was_killed_goes_on(searched, tmp_path):
    folder, front = searched
    lines = (folder / "history.jsonl").read_bytes().splitlines(keepends=True)
    keep = next(k for k, line in enumerate(lines) if b'"kind":"trial"' in line) + 1
    (tmp_path / "history.jsonl").write_bytes(b"".join(lines[:keep]) + lines[keep][:40])
    for file in folder.glob("trial-*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    timer = TableLane()
    timer.latency(Workbench(convnet(), None, None, None, "portable", 0).original)
    before = timer.asked["latency"]
    resumed = run(tmp_path, timer=timer)
    done = sum(b'"kind":"trial"' in line or b'"kind":"alike"' in line for line in lines[:keep])
    assert timer.asked["latency"] - before == 9 - done > 0
    assert [(name, recipe) for name, recipe, *_ in plain(resumed)] == [(n, r) for n, r, *_ in plain(front)]


def test_a_search_that_is_done_is_only_read(searched):
    folder, front = searched
    timer = TableLane()
    assert plain(run(folder, timer=timer)) == plain(front) and not timer.asked


def test_a_short_budget_leaves_what_there_is(tmp_path):
    front = run(tmp_path, "1 trial")
    assert [p.name for p in front.history] == ["original", "trial 1"]
    assert "the budget ended before a recipe was solved for: give more of it" in front.notes


def test_a_metric_that_fails_later_keeps_what_was_found(tmp_path):
    calls = []

    def metric(session):
        calls.append(1)
        if len(calls) > 2:
            raise ValueError("no labels")
        return 0.5

    front = run(tmp_path, metric=metric)
    assert len(front.history) == 2 and front.quality == "metric"
    assert any("ended early: metric: it raised ValueError: no labels" in note for note in front.notes)


def test_a_metric_that_fails_at_once_is_one_line(tmp_path):
    def metric(session):
        raise ValueError("no labels")

    with pytest.raises(OptionError, match="metric: it raised ValueError: no labels"):
        run(tmp_path, metric=metric)


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(OptionError, match="give calibration="):
        graphopt.search(convnet(), calibration=None)
    with pytest.raises(OptionError, match="budget"):
        graphopt.search(convnet(), calibration=images(4), budget="soon")
    with pytest.raises(OptionError, match="space"):
        graphopt.search(convnet(), calibration=images(4), space=["int9"])
    with pytest.raises(OptionError, match="objectives"):
        graphopt.search(convnet(), calibration=images(4), objectives=["speed"])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        graphopt.search(convnet(), calibration=images(4), out=tmp_path / "file" / "x")
    with pytest.raises(InputError):
        graphopt.search(convnet(), calibration=[{"wrong": np.zeros(3)}])


def test_the_command_line_writes_a_folder_and_picks(monkeypatch, tmp_path):
    monkeypatch.setattr(lane, "SECONDS", 0.01)
    onnx.save(convnet(), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([next(iter(feed.values())) for feed in images(8)]))
    words = ["search", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "data.npz"), "--budget", "1 trial"]
    ran = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "found"), "--min-sqnr", "40"])
    assert ran.exit_code == 0, ran.output
    assert "original" in ran.stdout and "picked " in ran.stdout and (tmp_path / "found" / "front.html").is_file()
    ran = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "found"), "--json"])
    assert json.loads(ran.stdout)["trials"] == 1
    for wrong, said in ((words[:2], "--out"), ([*words, "--out", str(tmp_path), "--space", "int9"], "int9")):
        ran = CliRunner().invoke(app, wrong)
        assert isinstance(ran.exception, OptionError) and said in str(ran.exception)


def test_the_command_line_hands_workers_over(monkeypatch, searched, tmp_path):
    onnx.save(convnet(), tmp_path / "m.onnx")
    seen = []

    def stand_in(model, **options):
        seen.append(options["executor"])
        return searched[1]

    monkeypatch.setattr(searching, "search", stand_in)
    words = ["search", str(tmp_path / "m.onnx"), "--out", str(tmp_path / "found")]
    for more in ([], ["--workers", "3"]):
        ran = CliRunner().invoke(app, [*words, *more])
        assert ran.exit_code == 0, ran.output
    assert seen[0] is None and seen[1]._max_workers == 3
    for more, reason in (
        (["--workers", "0"], "workers: 0 is not a number from 1 on"),
        (["--workers", "2", "--scheduler", "tcp://x:1"], "workers and scheduler are two places"),
    ):
        ran = CliRunner().invoke(app, [*words, *more])
        assert isinstance(ran.exception, OptionError) and reason in str(ran.exception)
    assert len(seen) == 2


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_processes_gives_the_same_recipes(count, searched, tmp_path):
    _, front = searched
    with executor_of(workers=count) as workers:
        found = run(tmp_path, executor=workers)
    assert plain(found) == plain(front) and found.notes == front.notes


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_recipes(searched, tmp_path):
    distributed = pytest.importorskip("distributed", reason="the extra `distributed` is not installed")
    _, front = searched
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1",
    ) as local, executor_of(scheduler=local.scheduler_address) as workers:  # fmt: skip
        found = run(tmp_path, executor=workers)
    assert plain(found) == plain(front) and found.notes == front.notes


@pytest.mark.parametrize(("cost", "is_mixed"), [(0.0, True), (40.0, False)])
def test_half_precision_is_mixed_in_only_where_it_is_as_fast(cost, is_mixed, tmp_path, monkeypatch):
    monkeypatch.setitem(lanes.COSTS, "Cast", cost)
    front = run(tmp_path, "10 trials", space=("float16", "static int8"))
    words = {word for p in front.history if p.predicted for word in p.recipe["layers"].values()}
    assert [p for p in front.history if "float16" in p.recipe.get("layers", {}).values()]
    assert ("float16" in words) is is_mixed


def test_what_stands_at_the_end_is_trained_on_request(monkeypatch, tmp_path):
    monkeypatch.setattr(building, "Distil", lambda: graphopt.Distil(steps=5, batch_size=4, learning_rate=1e-4))
    front = run(tmp_path, "5 trials", space=("static int8", "recovery"), count=16)
    trained = [p for p in front.history if p.recipe.get("recovery") == "distil"]
    assert trained and not any(point.why for point in trained) and "distil" in describe(trained[0].recipe)


def test_a_time_begins_with_quick_candidates(tmp_path):
    front = run(tmp_path, "1h", space=("static int8",))
    static = [p for p in front.history if "static int8" in p.recipe.get("layers", {}).values()]
    assert "rounding" in static[0].recipe and "rounding" not in static[1].recipe  # an hour is enough for careful ones
    assert any("no new recipe is predicted" in note for note in front.notes)
    records = map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines())
    measured = [bool(record["errors"]) for record in records if record.get("word") == "static int8"]
    assert measured == [True, False]  # once for all candidates


def test_four_bits_are_four_bits_however_they_are_asked_for():
    build = Builder(convnet(), images(4)).build
    alike = build(recipe_of({}, "portable", 0, uniform="weights4"))
    named = build(recipe_of({"layers": dict(alike.layers)}, "portable", 0))
    assert "weights4" in alike.layers.values() and named.layers == alike.layers and named.data == alike.data


def test_few_samples_are_told(tmp_path):
    front = run(tmp_path, "1 trial", count=2)
    assert any("fewer than 4 samples" in note for note in front.notes) and front.points[-1].held_db is None


def test_what_cannot_be_quantized_is_told(tmp_path):
    from onnx import TensorProto, helper

    node = helper.make_node("Relu", ["x"], ["y"])
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", value[:1], value[1:]), opset_imports=[
        helper.make_opsetid("", 17)])  # fmt: skip
    bench = Workbench(model, [{"x": np.ones((1, 3), np.float32) * k} for k in range(4)], None, None, "portable", 0)
    trials = Trials(bench, TableLane(), OBJECTIVES, tmp_path, {}, None)
    front = Search(trials, budget_named("9 trials"), SPACE).run()
    assert any("no layer of the model" in note for note in front.notes) and front.points[0].is_original
    assert all(point.why for point in front.history[2:]) and math.isinf(front.points[0].sqnr_db)


def test_channels_stay_where_a_candidate_takes_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(structure, "TILES", {True: 2, False: 2})
    monkeypatch.setattr(loop, "_DEAR", 0.0)
    front = run(tmp_path, "1h", space=("static int8", "channels"))
    assert any("channels stay" in note for note in front.notes)
    assert any("channels" in point.recipe for point in front.history)  # those from which that is known
    known = [point.recipe.get("channels") for point in front.history if not point.predicted]
    assert all(point.recipe.get("channels") in known for point in front.history)  # made again at the end, none new


def test_care_that_makes_the_static_model_worse_is_kept_for_the_end(tmp_path):
    front = run(tmp_path, "1h", space=("static int8", "weights8"))
    static = [p for p in front.history if {*p.recipe.get("layers", {}).values()} == {"static int8"}]
    assert static[0].sqnr_db > static[1].sqnr_db
    assert "rounding" in static[0].recipe and "rounding" not in static[1].recipe
    assert "rounding" in next(p for p in front.history if p.predicted).recipe


def test_layers_of_a_branch_are_decided_as_far_as_samples_reach(tmp_path, monkeypatch):
    monkeypatch.setattr(structure, "TILES", {True: 2, False: 2})
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(size=(1, 3, 8, 8)).astype("f4"), "flag": np.array(True)} for _ in range(8)]
    bench = Workbench(branched(), samples, None, None, "portable", 0)
    trials = Trials(bench, TableLane(), OBJECTIVES, tmp_path, {}, None)
    front = Search(trials, budget_named("16 trials"), space_named(("static int8", "weights8", "channels"))).run()
    decided = {part for decision in trials.tables.decisions for part in decision.parts}
    assert {"if, then branch: first", "if, then branch: second"} <= decided
    assert not any("else branch" in part for part in decided)
    assert any(point.predicted for point in front.history)
    assert not any("channels" in point.recipe for point in front.history)


def test_channels_are_ranked_as_suits_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(structure, "TILES", {True: 2, False: 2})
    front = run(tmp_path, "14 trials", space=("static int8", "channels"))
    narrowed = [point for point in front.history if "channels" in point.recipe]
    first, second = narrowed[:2]
    assert (first.recipe["ranking"], second.recipe["ranking"]) == ("reconstruction", "hessian")
    assert first.recipe["channels"] == second.recipe["channels"]
    better = max((first, second), key=lambda point: point.sqnr_db)
    assert {point.recipe["ranking"] for point in narrowed[2:]} == {better.recipe["ranking"]}


def test_the_placed_model_is_made_with_all_care_at_once(tmp_path, monkeypatch):
    words = dict.fromkeys(
        Builder(convnet(), images(4)).build(recipe_of({}, "portable", 0, uniform="static int8")).layers
    )
    placed = {name: "static int8" if k % 2 else "float32" for k, name in enumerate(words)}
    monkeypatch.setattr(TableLane, "placed", lambda *_: placed)
    front = run(tmp_path, "1h", space=("static int8", "weights8"))
    asked = [point.recipe for point in front.history if point.recipe.get("layers") == placed]
    assert ["rounding" in recipe for recipe in asked[:2]] == [True, False]
    stored = next(k for k, p in enumerate(front.history) if "weights8" in p.recipe.get("layers", {}).values())
    assert front.history[stored - 1].recipe in asked


def test_errors_of_layers_share_the_exact_passes(monkeypatch):
    builder = Builder(convnet(), images(8))
    recipe = recipe_of({}, "portable", 0, uniform="static int8", sensitivity=True)
    builder.build(recipe)
    monkeypatch.setattr(building, "exact", lambda *_: pytest.fail("the exact passes ran again"))
    few, whole = builder.on(images(8)[:2], recipe).build(recipe), builder.build(recipe)
    assert few.errors and few.errors.keys() == whole.errors.keys() and few.errors != whole.errors


def test_nothing_is_timed_for_reports_of_candidates(monkeypatch):
    monkeypatch.setattr(structure, "TILES", {True: 2, False: 2})
    builder = Builder(convnet(), images(4))
    built = builder.build(recipe_of({}, "portable", 0), keep=True).ir
    widths = structure_of(built, images(4), 0, quick=True).widths(0.5)
    monkeypatch.setattr(stage, "_times", lambda *_: pytest.fail("a candidate was timed for its report"))
    assert not builder.build(recipe_of({"channels": widths}, "portable", 0)).why
