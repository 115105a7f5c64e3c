"""Layers trade channels where results then come nearer to the original's."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import graphopt
from graphopt.calibration import open_calibration
from graphopt.distillation import Distil
from graphopt.errors import OptionError
from graphopt.onnx_io import load
from graphopt.passes import stages
from graphopt.passes.prune import Prune, best_way
from graphopt.passes.prune.best_way import prune_model
from graphopt.passes.prune.exchange import Exchange, Group, groups_of
from graphopt.passes.prune.job import Outcome
from graphopt.passes.prune.refit.held_out import HeldOutError
from graphopt.passes.prune.select.costs import cost_of_nodes
from models import fashion

from .test_iterative import twins

FASHION = fashion.FOLDER / "fashion_cnn.onnx"
GROUPS = [Group("a", 64, 8), Group("b", 64, 8), Group("c", 128, 16)]


def made_up(best, tried, refuse=()):
    """Outcomes whose error is the distance of widths from the best, relative; what is left is their sum."""

    def try_ways(ways):
        for way in ways:
            tried.append(way)
            widths = [way.keep[group.name] for group in GROUPS]
            error = sum(math.log(width / one) ** 2 for width, one in zip(widths, best))
            yield None if tuple(widths) in refuse else Outcome(sum(widths) / 256, error)

    return try_ways


def test_trades_find_the_widths_with_the_least_error():
    tried = []
    way = Prune(importance="l1", iterative_steps=4)
    found = Exchange(way, GROUPS, 0.5, made_up((16, 64, 48), tried), 120).best({"a": 48, "b": [64, 32], "c": 48})
    assert found is not None
    assert found[0] == replace(way, keep={"a": 16, "b": 64, "c": 48}, iterative_steps=1)
    assert found[1] == Outcome(0.5, 0.0)
    assert len(tried) == len({tuple(way.keep.values()) for way in tried}) <= 120


def test_the_budget_is_never_exceeded_and_least_stays():
    found = Exchange(Prune(least=0.25), GROUPS, 0.5, made_up((1, 64, 128), []), 120).best({"a": 32, "b": 32, "c": 64})
    assert found is not None
    assert found[0].keep["a"] == 16 and found[1].left <= 0.5


def test_evaluations_are_bounded():
    tried = []
    assert Exchange(Prune(), GROUPS, 0.5, made_up((16, 64, 48), tried), 9).best({"a": 48, "b": 32, "c": 48}) is not None
    assert len(tried) == 9


def test_a_start_beyond_the_budget_is_left():
    assert Exchange(Prune(), GROUPS, 0.4, made_up((16, 64, 48), []), 120).best({"a": 48, "b": 32, "c": 48}) is None


def test_widths_that_cannot_be_made_are_passed_by():
    refused = {(24, 56, 48), (16, 64, 48)}
    found = Exchange(Prune(), GROUPS, 0.5, made_up((16, 64, 48), [], refused), 120).best({"a": 48, "b": 32, "c": 48})
    assert found is not None
    assert tuple(found[0].keep.values()) not in refused and found[1].error < 0.5


def test_widths_that_were_asked_for_stay():
    model = load(FASHION)
    names = {group.name for group in groups_of(model, best_way.prune_model(model, Prune(), 0.0, []).keep, Prune())}
    first = sorted(names)[1]
    for options in (Prune(keep={first: 8}), Prune(ratios={first: 0.5}), Prune(ignored_layers=(first,))):
        keep = dict.fromkeys(names, 8)
        assert {group.name for group in groups_of(model, keep, options)} == names - {first}


@pytest.mark.parametrize(("by_cost", "ratio"), [(False, 0.65), (True, 0.8)])
def test_results_come_nearer_within_the_budget(by_cost, ratio):
    model = load(twins())
    x = np.random.default_rng(1).normal(size=(24, 4, 6)).astype(np.float32)
    feeds = open_calibration([{"x": one} for one in x], model)
    costs = cost_of_nodes("macs", model, feeds.first(1)[0]) if by_cost else None
    options, shares = Prune(importance="l2", round_to=1), []
    plain = prune_model(model, options, ratio, feeds, costs=costs)
    traded = prune_model(model, replace(options, exchange=40), ratio, feeds, costs=costs, progress=shares.append)
    fresh = open_calibration([{"x": np.random.default_rng(2).normal(size=(200, 6)).astype(np.float32)}] * 20, model)
    held_out = HeldOutError(model, fresh)
    before, after = Outcome.of(plain, held_out), Outcome.of(traded, held_out)
    assert after.error < 0.95 * before.error and after.left <= max(before.left, 1 - ratio)
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_a_recipe_holds_the_widths_and_workers_change_nothing(monkeypatch):
    x = np.random.default_rng(1).normal(size=(24, 1, 6)).astype(np.float32)
    options = Prune(importance="l2", ratio=0.4, round_to=1, exchange=12)
    given = {"calibration": [{"x": one} for one in x], "validate": False}
    result = graphopt.optimize(twins(), prune=options, **given)
    with ThreadPoolExecutor(2) as threads:
        other = graphopt.optimize(twins(), prune=options, executor=threads, **given)
    plain = graphopt.optimize(twins(), prune=replace(options, exchange=0), **given)
    assert result.recipe.prune.exchange == 0 and plain.recipe.channels != result.recipe.channels
    monkeypatch.setattr(best_way, "Exchange", None)  # the recipe's widths are not traded again
    again = graphopt.optimize(twins(), recipe=result.recipe, **given)
    assert len({one.model.SerializeToString(deterministic=True) for one in (result, other, again)}) == 1


def test_channels_are_traded_where_weights_are_trained_after_that():
    def wanted(prune, recover=None):
        return stages(prune, None, None, recover)[0].options.exchange

    assert wanted(Prune()) == 0
    assert wanted(Prune(), Distil()) == wanted(Prune(recover="distil")) > 50
    assert wanted(Prune(), Distil(steps=800)) == 10 and wanted(Prune(), Distil(epochs=3)) == 0
    assert wanted(Prune(exchange=7)) == 7 and wanted(Prune(exchange=0), Distil()) == 0


def test_a_number_of_prunings_is_asked_for():
    with pytest.raises(OptionError, match="exchange -1 is not a number of prunings from 0 on"):
        Prune(exchange=-1)
