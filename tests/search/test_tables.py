"""Tables and the integer program, against plain enumeration."""

import math
from itertools import product

import numpy as np
import pytest

from graphopt.searching.costing import Uniform, tables_of
from graphopt.searching.front import front_from
from graphopt.searching.plan import Decision, alternating, recipe_of
from graphopt.searching.point import Point
from graphopt.searching.program import Limit, solve
from graphopt.searching.structure import Group, Layer, Structure
from graphopt.searching.sweep import BEST, SLACK, WORST, Scale, next_plans
from graphopt.searching.tables import CostTable, Factor, Tables
from graphopt.searching.words import OBJECTIVES

WORDS = ("float32", "static int8", "weights8")


def enumerated(sizes, goal, limits, banned=()):
    def total(terms, plan):
        return sum(float(costs[tuple(plan[i] for i in over)]) for over, costs in terms)

    plans = [p for p in product(*map(range, sizes)) if p not in banned]
    fitting = [p for p in plans if all(total(limit.terms, p) <= limit.most + 1e-9 for limit in limits)]
    return min((total(goal, p) for p in fitting), default=None), total


@pytest.mark.parametrize("seed", range(5))
def test_the_program_equals_enumeration(seed):
    rng = np.random.default_rng(seed)
    sizes = (3, 2, 4, 2)
    terms = [((i,), rng.uniform(0, 1, sizes[i])) for i in range(4)]
    terms += [((0, 2), rng.uniform(0, 1, (3, 4))), ((1, 2, 3), rng.uniform(0, 1, (2, 4, 2)))]
    other = [((i,), rng.uniform(0, 1, sizes[i])) for i in range(4)]
    for most in (0.9, 1.6, 4.0):
        best, total = enumerated(sizes, terms, [Limit(other, most)])
        plan = solve(sizes, terms, [Limit(other, most)])
        assert (plan is None) == (best is None)
        if plan is not None:
            assert total(terms, plan) == pytest.approx(best, rel=1e-3) and total(other, plan) <= most + 1e-6


def test_banned_plans_give_the_next_best():
    costs = [((0,), np.array([0.0, 1.0])), ((1,), np.array([0.0, 2.0]))]
    assert solve((2, 2), costs, []) == (0, 0)
    assert solve((2, 2), costs, [], [(0, 0)]) == (1, 0)
    assert solve((2, 2), costs, [], [(0, 0)], apart=2) == (1, 1)
    assert solve((2, 2), costs, [], list(product((0, 1), (0, 1)))) is None


def tables():
    decisions = tuple(Decision(f"layer {i}", WORDS, (f"l{i}",)) for i in range(3))

    def table(base, costs, noise):
        factors = tuple(Factor((i,), np.array(row, float), WORDS) for i, row in enumerate(costs))
        return CostTable(base, factors, noise, (0.3, 0.2))

    return Tables(
        decisions,
        table(0.1, [[0.5, 0.2, 0.5], [0.3, 0.1, 0.3], [0.1, 0.1, 0.1]], 0.02),
        table(0.0, [[0.0, 1e-3, 1e-5], [0.0, 1e-4, 1e-5], [0.0, 1e-2, 1e-5]], 0.2),
        table(1000.0, [[400, 100, 100], [400, 100, 100], [800, 200, 200]], 0.01),
    )


def test_limits_are_kept_and_the_rest_is_best():
    found = tables()
    plan, predicted = found.solve(latency=0.75)
    assert plan == (1, 0, 0) and predicted["latency"] == pytest.approx(0.7)
    assert found.solve(latency=0.6)[0] == (1, 1, 0)
    assert found.solve(size=1500)[0] == (2, 2, 2)
    assert found.solve(latency=0.3) is None
    assert found.solve(noise=1e-12)[0] == (0, 0, 0)


def test_measurements_correct_the_predictions():
    found, truth = tables(), tables()
    truth.latency.factors = tuple(Factor(f.over, f.costs * [1.0, 1.5, 1.0], f.kinds) for f in truth.latency.factors)
    before = abs(found.predict((1, 0, 0))["latency"] - truth.predict((1, 0, 0))["latency"])
    for plan in ((1, 1, 1), (0, 1, 0), (0, 0, 0)):
        found.observe(plan, {"latency": truth.predict(plan)["latency"]})
    after = abs(found.predict((1, 0, 0))["latency"] - truth.predict((1, 0, 0))["latency"])
    assert after < before / 3
    assert found.predict((0, 0, 0))["latency"] == pytest.approx(1.0, rel=0.02)


def test_corrected_factors_sum_to_the_prediction():
    found = tables()
    found.observe((1, 2, 1), {"latency": 0.9, "noise": 3e-2, "size": 1400.0})
    for plan in product(range(3), repeat=3):
        total = found.noise.base + sum(factor.at(plan) for factor in found.noise.corrected())
        assert total == pytest.approx(found.noise.predict(plan))


ORIGINAL = Point(name="original", latency=1.0, size=2600)


def test_plans_that_are_tried_are_new_and_widen_the_front():
    found, tried = tables(), [(0, 0, 0), (1, 1, 1)]
    plans = next_plans(found, tried, [ORIGINAL], OBJECTIVES, 4, 0)
    assert len(plans) == len({*plans}) > 1 and not {*plans} & {*tried}
    for plan in plans:
        predicted = found.predict(plan)
        assert predicted["noise"] <= 10 ** (-WORST / 10) and predicted["latency"] <= SLACK
        assert predicted["latency"] < 1.0 or predicted["size"] < 2600
    assert next_plans(found, tried, [ORIGINAL], OBJECTIVES, 4, 0) == plans
    everything = [*product(range(3), repeat=3)]
    assert next_plans(found, everything, [ORIGINAL], OBJECTIVES, 4, 0) == []
    best = Point(name="trial 1", latency=0.01, sqnr_db=99.0, size=1)
    assert next_plans(found, tried, [ORIGINAL, best], OBJECTIVES, 4, 0) == []


@pytest.mark.parametrize("objectives", [("latency", "quality"), ("quality", "size")])
def test_plans_serve_the_objectives_alone(objectives):
    found = tables()
    plans = next_plans(found, [(0, 0, 0)], [ORIGINAL], objectives, 4, 0)
    words = {word for plan in plans for word in plan}
    assert plans and (2 in words) is ("size" in objectives)


def test_a_metric_says_what_quality_counts():
    def point(decibels, metric):
        return Point(name="trial", latency=1.0, sqnr_db=decibels, metric=metric)

    original = Point(name="original", latency=1.0, size=10, metric=0.9, metric_error=0.01)
    plain = Scale.of([ORIGINAL, Point(name="trial", latency=1.0, sqnr_db=3.0)])
    assert (plain.low, plain.high) == (WORST, BEST)
    scale = Scale.of([original, point(40.0, 0.9), point(18.0, 0.85), point(6.0, 0.83), point(2.0, 0.5)])
    assert (scale.low, scale.high) == (6.0, 23.0)
    assert scale.values(0.5, 23.0, 5) == scale.values(0.5, 60.0, 5) == (0.5, 0.0, 0.5)
    assert scale.values(None, 6.0, 20) == (math.inf, 1.0, 2.0)


def test_figures_that_are_no_numbers_teach_nothing():
    found = tables()
    found.observe((1, 1, 1), {"latency": float("nan"), "noise": 0.0})
    assert not found.latency.seen and not found.noise.seen


def test_a_pick_solves_anew_from_stored_tables():
    original = Point(name="original", latency=1.0, size=2600)
    front = front_from([original], OBJECTIVES, "SQNR", tables=tables())
    point = front.pick(speedup=2, measured=False)
    assert point.name == "predicted" and point.latency <= 0.5 and not point.path
    assert point.recipe["layers"] == {"l0": "static int8", "l1": "static int8", "l2": "float32"}


def test_noise_that_is_off_by_far_is_corrected():
    factors = tuple(Factor((i,), np.array([0.0, 1e-4, 1e-5]), WORDS) for i in range(3))
    noise = CostTable(0.0, factors, 0.25, (1.5, 1.0))
    noise.observe((1, 1, 1), 0.03)  # a hundred times what the table has
    assert noise.predict((1, 1, 1)) == pytest.approx(0.03, rel=0.1)
    assert noise.predict((1, 0, 0)) == pytest.approx(0.01, rel=0.2) and 0 < noise.predict((2, 0, 0)) < 1e-3


def test_every_other_layer_is_on_integers():
    width = Decision("channels of l0", ("8", "4"), ("l0",), True)
    other = Decision("layer 9", ("float32", "weights8"), ("l9",))
    decisions = (*tables().decisions, other, width)
    plan = alternating(decisions, "static int8")
    assert plan == (1, 0, 1, 0, 0)
    assert "channels" not in recipe_of(decisions, plan) and recipe_of(decisions, (0, 0, 0, 0, 1))["channels"] == {
        "l0": 4
    }


def pair():
    """Two layers with a group of channels between them: a ReLU follows the first."""
    layers = (Layer("a", 100, writes=0, tied=0, followers=("relu",)), Layer("b", 100, reads=0, tied=1))
    structure = Structure(layers, (Group("a", 32, (32, 16), (0.0, 0.01)),), ((0, 1, 1000),))
    words = {"a": "static int8", "b": "static int8"}
    shares = {"a": 0.5, "relu": 0.1, "b": 0.3, "": 0.1}
    uniform = [
        Uniform("float32", 1.0, shares), Uniform("static int8", 0.5, shares, words),
        Uniform("weights8", 1.1, shares, dict.fromkeys(words, "weights8")),
        Uniform("float32", 0.55, {"a": 0.5, "relu": 0.1, "b": 0.22, "": 0.18}, {}, {"a": 16}),
    ]  # fmt: skip
    return tables_of(structure, uniform, 1000, 1e-6, 1.0)


def test_a_layer_takes_what_follows_it_along_and_borders_cost():
    found = pair().latency
    assert found.base == pytest.approx(0.1)
    assert found.predict((0, 0, 0)) == pytest.approx(1.0)
    assert found.predict((1, 1, 0)) == pytest.approx(0.5, abs=1e-9)
    assert found.predict((0, 0, 1)) == pytest.approx(0.1 + 0.55 * 0.82, abs=1e-9)
    border = 1e-3 + 2e-6  # of a thousand elements, and two calls
    for mixed, sides in (((1, 0, 0), 1), ((0, 2, 0), 1), ((1, 2, 0), 2)):
        apart = sum(f.at(mixed) for f in found.factors if len(f.over) == 1)
        assert found.predict(mixed) == pytest.approx(0.1 + apart + sides * border, abs=1e-9)


def test_what_widths_save_is_corrected_apart_from_what_layers_take():
    found = pair().latency
    whole, narrow = found.predict((0, 0, 0)), found.predict((0, 0, 1))
    found.observe((0, 0, 0), whole)
    found.observe((0, 0, 1), narrow - 0.1)
    assert found.predict((0, 0, 0)) == pytest.approx(whole, rel=0.02)
    assert found.predict((0, 0, 1)) == pytest.approx(narrow - 0.1, rel=0.05)


def test_a_layer_is_corrected_for_each_choice_by_itself():
    found = tables().latency
    found.observe((0, 0, 0), 1.0)
    found.observe((1, 0, 0), 0.9)  # 0.7 by the tables
    assert found.predict((1, 0, 0)) > 0.8 and found.predict((0, 0, 0)) == pytest.approx(1.0, rel=0.03)
