"""Ways of pruning where the options leave the choice open, and the one that is taken."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import graphopt
from graphopt.analysis.channels import find_channels
from graphopt.calibration import open_calibration
from graphopt.errors import ModelError
from graphopt.ir import clone_model
from graphopt.onnx_io import load
from graphopt.parallel import executor_of
from graphopt.passes.prune import job, pruned_model
from graphopt.passes.prune.attempts import STEPS, attempts
from graphopt.passes.prune.best_way import prune_model
from graphopt.passes.prune.cut.remove import unshare
from graphopt.passes.prune.options import Prune
from graphopt.passes.prune.score.importance import weight_scores
from graphopt.passes.prune.select.allocation import allocate
from graphopt.passes.prune.select.costs import Costs, cost_of_nodes
from graphopt.passes.prune.select.filling import fill
from models import fashion

from .test_iterative import twins

X = np.random.default_rng(1).normal(size=(256, 6)).astype(np.float32)
FASHION = fashion.FOLDER / "fashion_cnn.onnx"


def ways(by_cost=False, is_rough=False, **options):
    model = load(twins())
    found = attempts(Prune(**options), model, open_calibration({"x": X}, model), is_rough, by_cost)
    return [(way.importance, way.iterative_steps, way.global_ranking) for way in found]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [("reconstruction", 1, True), ("fisher", 1, True), ("reconstruction", STEPS, True)]),
        ({"by_cost": True}, [("reconstruction", 1, True), ("fisher", STEPS, True), ("hessian", 1, False)]),
        ({"iterative_steps": 2}, [("reconstruction", 2, True), ("reconstruction", 1, True), ("fisher", 1, True)]),
        ({"is_rough": True}, [("l2", 1, True)]),
        ({"global_ranking": False}, [("hessian", 1, False)]),
        ({"importance": "taylor"}, [("taylor", 1, True)]),
        ({"importance": "l1", "iterative_steps": 3}, [("l1", 3, True), ("l1", 1, True)]),
    ],
)
def test_what_is_tried(given, expected):
    assert ways(**given) == expected


def test_one_way_alone_is_tried_where_runs_are_dear(monkeypatch):
    monkeypatch.setattr("graphopt.passes.prune.attempts._AFFORDED", 1.0)
    assert ways() == [("reconstruction", 1, True)]


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_way_with_the_least_error_is_taken_and_told(best, monkeypatch):
    """Errors are made up."""
    judged = []

    def errors(held_out, model):
        judged.append(model)
        return np.full(3, 1.0 if len(judged) == best + 1 else 2.0)

    monkeypatch.setattr("graphopt.passes.prune.job.HeldOutError.errors", errors)
    options = Prune(macs=0.5, recover=False, round_to=1)
    result = graphopt.optimize(twins(), prune=options, calibration={"x": X}, validate=False)
    words = ["importance 'reconstruction'", f"importance 'fisher', in {STEPS} steps", "every layer alike"]
    assert len(judged) == 3 and words[best] in result.report.stages[0].summary


def test_a_node_without_gradient_is_in_the_way_of_one_attempt_alone(monkeypatch):
    def refused(*arguments):
        raise ModelError("no gradient")

    monkeypatch.setattr(pruned_model, "gradient_scores", refused)
    model = load(twins())
    feeds = open_calibration({"x": X}, model)
    assert prune_model(model, Prune(round_to=1), 0.5, feeds).options.importance == "reconstruction"
    with pytest.raises(ModelError, match="no gradient"):
        prune_model(model, Prune(round_to=1, importance="fisher"), 0.5, feeds)


def test_fewer_costs_count_before_a_smaller_error(monkeypatch):
    """Where a way misses the budget that another meets, its error does not matter."""
    model = load(twins())
    feeds = open_calibration({"x": X}, model)
    costs = cost_of_nodes("macs", model, feeds.first(1)[0])
    whole = prune_model(model, Prune(importance="l2", round_to=1), 0.5, feeds, costs=costs)

    def in_steps(original, way, *rest):
        return replace(whole, options=way, left=0.5 if way.importance == "fisher" else 0.6)

    monkeypatch.setattr(job, "prune_in_steps", in_steps)
    assert prune_model(model, Prune(), 0.5, feeds, costs=costs).options.importance == "fisher"


@pytest.mark.parametrize("options", [Prune(round_to=1), Prune(macs=0.5, round_to=1)])
def test_workers_try_the_ways_and_change_nothing(options, monkeypatch):
    def made(executor):
        result = graphopt.optimize(twins(), prune=options, calibration={"x": X}, validate=False, executor=executor)
        return result.model.SerializeToString(), result.recipe.to_toml()

    alone, tried, try_way = made(None), [], job._outcome
    with ThreadPoolExecutor(2) as threads, monkeypatch.context() as patch:
        patch.setattr(job, "_outcome", lambda *call: tried.append(call) or try_way(*call))
        assert made(threads) == alone and len(tried) == 3
    with executor_of(workers=2) as processes:
        assert made(processes) == alone


def test_a_way_without_gradient_on_a_worker_is_left_out(monkeypatch):
    def refused(*arguments):
        raise ModelError("no gradient")

    monkeypatch.setattr(pruned_model, "gradient_scores", refused)
    model = load(twins())
    feeds = open_calibration({"x": X}, model)
    with ThreadPoolExecutor(2) as threads:
        shares = []
        pruned = prune_model(model, Prune(round_to=1), 0.5, feeds, executor=threads, progress=shares.append)
        assert pruned.options.importance == "reconstruction"
        assert shares == sorted(shares) and len(shares) > 3 and shares[-1] == 1.0
        with pytest.raises(ModelError, match="no gradient"):
            prune_model(model, Prune(round_to=1, importance="fisher", iterative_steps=2), 0.5, feeds, executor=threads)


@pytest.mark.parametrize("is_global", [True, False])
@pytest.mark.parametrize("share", [0.7, 0.5])
def test_what_rounding_leaves_of_a_budget_is_filled(share, is_global):
    model = clone_model(load(FASHION))
    unshare(model)
    costs = cost_of_nodes("macs", model, {"image": np.zeros((1, 1, 28, 28), np.float32)})
    facts, options = find_channels(model), Prune(macs=share, importance="l2", global_ranking=is_global)
    scores, known = weight_scores(facts, "l2", 0), Costs(costs, sum(costs.values()))
    kept, allocations = allocate(facts, scores, options, 0.7)
    more, wider = fill(facts, scores, options, known, share, kept, allocations)
    assert known.share(facts, kept) < share - 0.1 < known.share(facts, more) <= share
    assert (more >= kept).all() and all(a.group is b.group for a, b in zip(allocations, wider))
    for one in wider:
        assert one.kept == more[one.group.classes].sum()
        assert one.kept % 8 == 0 or one.kept == one.group.size


def test_nothing_is_filled_where_the_budget_is_spent():
    model = clone_model(load(FASHION))
    unshare(model)
    costs = cost_of_nodes("macs", model, {"image": np.zeros((1, 1, 28, 28), np.float32)})
    facts, options = find_channels(model), Prune(macs=0.5, importance="l2")
    scores, known = weight_scores(facts, "l2", 0), Costs(costs, sum(costs.values()))
    kept, allocations = allocate(facts, scores, options, 0.3)
    more, same = fill(facts, scores, options, known, 0.2, kept, allocations)
    assert (more == kept).all() and same == allocations
