"""Fronts: dominance, picks, forms; without any model."""

import json
import math

import pytest

from graphopt.errors import OptionError
from graphopt.searching.front import front_from
from graphopt.searching.point import Point, dominates, front_of, hypervolume
from graphopt.searching.words import OBJECTIVES, Budget, budget_named, objectives_named, space_named

RECIPE = {"layers": {"a": "dynamic"}}
ORIGINAL = Point(name="original", latency=1.0, metric=0.9, size=10_000_000)
FAST = Point(
    name="trial 1", latency=0.4, metric=0.88, sqnr_db=20.0, size=3_000_000, recipe={"layers": {"a": "dynamic"}}
)
GOOD = Point(name="trial 2", latency=0.6, metric=0.899, sqnr_db=35.0, size=5_000_000)
WORSE = Point(name="trial 3", latency=0.7, metric=0.895, sqnr_db=30.0, size=6_000_000)
FAILED = Point(name="trial 4", why="it does not load", sqnr_db=-math.inf)


def front(*points):
    return front_from([ORIGINAL, *points], OBJECTIVES, "accuracy")


def test_a_front_holds_what_nothing_beats_and_the_original():
    found = front(WORSE, FAST, GOOD, FAILED)
    assert [point.name for point in found.points] == ["original", "trial 1", "trial 2"]
    assert len(found.history) == 5


def test_an_original_that_is_beaten_stays_on_the_front():
    better = Point(name="trial 1", latency=0.5, metric=0.95, size=10)
    assert [p.name for p in front_of([ORIGINAL, better], OBJECTIVES)] == ["original", "trial 1"]


def test_more_noise_than_signal_is_no_point():
    plain, noise = (
        Point(name="original", latency=1.0, size=10),
        Point(name="trial 1", latency=0.1, sqnr_db=-1.0, size=1),
    )
    assert front_of([plain, noise], OBJECTIVES) == (plain,)


def test_equal_points_count_once():
    twice = [ORIGINAL, GOOD, Point(name="trial 9", latency=0.6, metric=0.899, sqnr_db=30.0, size=5_000_000)]
    assert [p.name for p in front_of(twice, OBJECTIVES)] == ["original", "trial 2"]


def test_dominance_is_strict_somewhere():
    assert dominates((1, 2), (1, 3)) and not dominates((1, 2), (1, 2)) and not dominates((1, 3), (2, 2))


def test_picks_by_the_effect_that_is_asked_for():
    found = front(FAST, GOOD)
    assert found.pick(speedup=2).name == "trial 1"
    assert found.pick(max_drop=0.005).name == "trial 2"
    assert found.pick(max_drop=0.05).name == "trial 1"
    assert found.pick(size_mb=6).name == "trial 2"
    assert found.pick(max_drop=0.005, size_mb=6).name == "trial 2"
    assert found.pick(min_sqnr=30).name == "trial 2"
    assert found.pick(max_drop=0).name == "original"


def test_a_pick_that_cannot_be_names_the_nearest():
    with pytest.raises(OptionError, match=r"no measured point has 3 × the speed; the nearest is trial 1 \(2.50 ×"):
        front(FAST, GOOD).pick(speedup=3)
    with pytest.raises(OptionError, match="give max_drop"):
        front(FAST).pick()


def test_max_drop_asks_for_a_metric():
    plain = front_from([Point(name="original", latency=1.0, size=10)], OBJECTIVES, "SQNR")
    with pytest.raises(OptionError, match="none was given"):
        plain.pick(max_drop=0.1)


def test_json_gives_back_the_points():
    data = json.loads(front(FAST, GOOD).to_json())
    assert [Point.of(point) for point in data["points"]] == list(front(FAST, GOOD).points)
    assert data["points"][0]["sqnr_db"] is None  # infinite: no number in JSON


def test_forms_name_every_point(tmp_path):
    found = front(FAST, GOOD, WORSE)
    text = str(found)
    assert "2.50 ×" in text and "1 × dynamic" in text and "3 trials" in text
    assert "<td>trial 2</td>" in found._repr_html_()
    found.write_page(tmp_path / "front.html", "small")
    page = (tmp_path / "front.html").read_text()
    assert page.count("<circle") == 4 and "1 × dynamic" in page and 'class="trial"' in page


def test_hypervolume_of_two_boxes():
    assert hypervolume([(0, 1), (1, 0)], (2, 2)) == pytest.approx(3.0)
    assert hypervolume([(0, 0, 0)], (1, 2, 3)) == pytest.approx(6.0)
    assert hypervolume([(3, 3)], (2, 2)) == 0.0


@pytest.mark.parametrize(
    ("given", "expected"),
    [("10min", Budget(600.0)), ("90s", Budget(90.0)), ("1.5h", Budget(5400.0)), (30, Budget(30.0)),
     ("20 trials", Budget(trials=20)), ("10m", Budget(600.0))],
)  # fmt: skip
def test_budgets(given, expected):
    assert budget_named(given) == expected


@pytest.mark.parametrize("given", ["soon", "0s", "-3", "2 weeks", True, "1.5 trials"])
def test_budgets_that_are_none(given):
    with pytest.raises(OptionError, match="budget"):
        budget_named(given)


def test_words_are_checked():
    assert objectives_named(("size", "quality")) == ("quality", "size")
    assert space_named(["channels", "dynamic"]) == ("dynamic", "channels")
    for wrong in (("latencies", "quality"), ("latency",), ("quality",), ()):
        with pytest.raises(OptionError, match="objectives"):
            objectives_named(wrong)
    for wrong in (["int9"], ["calibration"], []):
        with pytest.raises(OptionError, match="space"):
            space_named(wrong)
