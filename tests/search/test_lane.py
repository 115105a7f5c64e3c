"""The timing lane: what is measured once, and what anew."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.measure import interleaved
from graphopt.searching.building import NEAREST, Builder, recipe_of
from graphopt.searching.lane import CLEAR, MachineLane, form_of
from graphopt.searching.structure import names_in
from tests.quantize.nets import convnet, images
from tests.search.nets import branched


class Bench:
    """Times that do not change; counts how often it measured."""

    def __init__(self, error: float) -> None:
        self.error, self.measured = error, 0

    run_seconds = 0.0

    def feeds(self, samples):
        return [{}] * samples

    def timings(self, models, seconds, is_clear, rounds, samples):
        self.measured += 1
        yield [SimpleNamespace(low=2.0, low_error=0.0), SimpleNamespace(low=1.0, low_error=self.error)]


def made(word: str, **recipe: str):
    full = recipe_of(recipe, "portable", 0, uniform=word)
    return Builder(convnet(), images(4)).build(full, keep=True).ir


@pytest.fixture(scope="module")
def models():
    return made("static int8"), made("static int8", rounding=NEAREST), made("weights8"), made("weights4")


def test_a_form_is_all_but_weights_and_scales(models):
    careful, quick, eight, four = map(form_of, models)
    assert careful == quick and len({careful, eight, four}) == 3
    assert constants(models[0]) != constants(models[1])


def constants(model) -> set[bytes]:
    read = {value for node in model.graph for value in node.inputs if value is not None}
    return {value.constant.array().tobytes() for value in read if value.constant is not None}


def test_equal_forms_share_a_clear_time(models):
    bench = Bench(CLEAR / 2)
    lane = MachineLane(bench)
    assert [lane.latency(model).latency for model in models] == [0.5] * 4 and bench.measured == 3


def test_a_time_that_is_not_clear_is_measured_anew(models):
    bench = Bench(2 * CLEAR)
    lane = MachineLane(bench)
    assert [lane.latency(model).error for model in models[:2]] == [2 * CLEAR] * 2 and bench.measured == 2


@pytest.mark.parametrize(("scatter", "runs"), [(0.0, 40), (0.2, 40), (0.2, 5)])
def test_blocks_of_runs_tell_how_far_a_ratio_of_quartiles_scatters(scatter, runs):
    rng = np.random.default_rng(0)
    ticks = [tick for _ in range(runs) for tick in (0.0, 2.0, 0.0, 1.0 + scatter * rng.random())]
    clock = iter([*ticks])
    first, second = interleaved(
        {"a": lambda: None, "b": lambda: None}, seconds=0.0, min_runs=runs, max_runs=runs, clock=lambda: next(clock)
    )
    assert first.low_error == 0.0
    assert second.low_error == (0.0 if not scatter else second.error if runs < 32 else pytest.approx(0.01, abs=0.01))


def test_layers_are_named_in_branches_and_timed_there():
    samples = {"x": np.ones((1, 3, 8, 8), np.float32), "flag": np.array(True)}
    model = onnx_io.load(branched())
    lane = MachineLane(SimpleNamespace(feeds=lambda: [samples], target="portable"))
    names = list(names_in(model).values())
    shares = lane.shares(model, names)
    assert "if, then branch: first" in names and shares["if, then branch: first"] > 0
    assert not any("else branch" in name for name in shares) and sum(shares.values()) == pytest.approx(1.0)
