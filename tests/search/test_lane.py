"""The timing lane: what is measured once, and what anew."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from graphopt import onnx_io
from graphopt.measure import interleaved
from graphopt.searching.building import NEAREST, Builder, recipe_of
from graphopt.searching.lane import CLEAR, LONG, MachineLane, form_of, layer_near, without_entries
from graphopt.searching.structure import names_in, structure_of
from tests.quantize.nets import convnet, images
from tests.search.nets import branched


class Bench:
    """Times that do not change; counts how often it measured."""

    def __init__(self, error: float, run_seconds: float = 0.0) -> None:
        self.error, self.measured, self.run_seconds = error, 0, run_seconds

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
    seconds = {"a": iter([2.0] * runs), "b": iter([1.0 + scatter * rng.random() for _ in range(runs)])}
    ticks = [tick for turn in range(runs) for label in ("ab", "ba")[turn % 2] for tick in (0.0, next(seconds[label]))]
    clock = iter(ticks)
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


@pytest.mark.parametrize(("run", "samples"), [(LONG / 2, 4), (2 * LONG, 1)])
def test_long_runs_are_timed_on_one_sample(models, run, samples):
    measured = MachineLane(Bench(0.0, run)).latency(models[0])
    assert measured.seconds == 2.0 / samples and measured.latency == 0.5


def kernel(seconds: float, *branches: str) -> SimpleNamespace:
    return SimpleNamespace(seconds=seconds, node=SimpleNamespace(subgraphs=branches))


@pytest.mark.parametrize(
    ("kernels", "alone", "expected"),
    [
        ([kernel(5.0), kernel(3.0)], 4.0, [3.0, 1.0]),  # half of what is too much from each
        ([kernel(5.0), kernel(1.0)], 2.0, [4.0, 0.0]),  # never more than the least has
        ([kernel(5.0), kernel(3.0)], 9.0, [5.0, 3.0]),  # nothing where nothing is too much
        ([kernel(9.0, "then"), kernel(2.0), kernel(4.0)], 8.0, [2.0, 2.0, 4.0]),  # what holds the others' entries first
    ],
)
def test_times_without_what_a_profile_adds(kernels, alone, expected):
    assert without_entries(kernels, alone) == pytest.approx(expected)


def test_conversions_count_to_the_layer_that_they_are_for(models):
    model, names = models[0], names_in(models[0])
    wanted = {name for node, name in names.items() if node.op in ("Conv", "Gemm", "MatMul")}
    for node in model.graph:
        reads = {use.node for value in node.outputs for use in value.uses}
        near = layer_near([node], wanted, {})
        if node.op == "DequantizeLinear" and node.inputs[0].constant is not None:
            assert near == {names[reader] for reader in reads}
        elif node.op in ("QuantizeLinear", "DequantizeLinear"):
            assert len(near) <= 1
    assert any(layer_near([node], wanted, {}) for node in model.graph if node.op == "QuantizeLinear")


def test_nodes_without_weights_follow_the_layer_before_them():
    built = Builder(convnet(), images(4)).build(recipe_of({}, "portable", 0), keep=True).ir
    layers = structure_of(built, images(4), 0, channels=False).layers
    names = names_in(built)
    following = [name for layer in layers for name in layer.followers]
    assert len(following) == len({*following}) > 0 and not {*following} & {layer.name for layer in layers}
    for node, name in names.items():
        before = [v.producer for v in node.inputs if v is not None and v.producer is not None]
        if name in following and len(before) == 1 and names[before[0]] in {layer.name for layer in layers}:
            layer = next(layer for layer in layers if layer.name == names[before[0]])
            assert name in layer.followers
