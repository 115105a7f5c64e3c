"""Targets of pruning: multiply-accumulates, parameters, speed."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt import cli, onnx_io
from graphopt.analysis.channels import find_channels
from graphopt.equivalence.synthesis import synthesise
from graphopt.errors import OptionError
from graphopt.ir import clone_model
from graphopt.measure import Timing, figures
from graphopt.passes.prune import stage as stages
from graphopt.passes.prune.cut.remove import remove, unshare
from graphopt.passes.prune.options import Prune, from_words
from graphopt.passes.prune.score.importance import weight_scores
from graphopt.passes.prune.select.allocation import allocate
from graphopt.passes.prune.select.costs import Costs, cost_of_nodes
from models import fashion
from tests import nets
from tests.quantize.nets import parse

FASHION = fashion.FOLDER / "fashion_cnn.onnx"
SHAPES = ("attention", "c2f", "concat", "grouped", "residual", "shuffle", "squeeze_excite")


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", ["macs", "parameters"])
def test_the_predicted_share_is_that_of_the_pruned_model(name, kind):
    """Costs follow from the channels that stay as they do from the model without the others."""
    model = onnx_io.load(nets.load(name))
    unshare(model)
    feeds = nets.feeds(onnx_io.to_proto(model))
    costs = cost_of_nodes(kind, model, feeds)
    facts = find_channels(model)
    kept, _ = allocate(facts, weight_scores(facts, "l2", 0, {}), Prune(round_to=1), 0.4)
    share = Costs(costs, sum(costs.values())).share(facts, kept)
    cut = clone_model(model)
    again = find_channels(cut)
    remove(again, kept)
    after = cost_of_nodes(kind, cut, feeds)
    assert share == pytest.approx(sum(after.values()) / sum(costs.values()), rel=0.02)


@pytest.mark.parametrize("kind", ["macs", "parameters"])
def test_products_with_the_state_of_a_recurrent_layer_stay(kind):
    """h = relu(x W), y = GRU(h): channels of h scale W and the GRU's own W, not its R. Before, the GRU counted nothing,
    and all of it was said to go with its inputs."""
    rng, inputs, width, hidden = np.random.default_rng(0), 12, 64, 48
    weights = {"w": (inputs, width), "gw": (1, 3 * hidden, width), "gr": (1, 3 * hidden, hidden)}
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (float[7,N,{inputs}] x) => (float[7,1,N,{hidden}] y)
        <{", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in weights.items())}>
        {{ a = MatMul(x, w) h = Relu(a) y = GRU<hidden_size={hidden}>(h, gw, gr) }}""",
        **{name: rng.standard_normal(shape) for name, shape in weights.items()},
    )
    made = graphopt.optimize(model, prune=graphopt.Prune(recover=False, round_to=1, **{kind: 0.7}), validate=False)
    (kept,) = (array.dims[1] for array in made.model.graph.initializer if array.dims[0] == inputs)
    steps = 7 if kind == "macs" else 1
    counts = [steps * (inputs * n + 3 * hidden * (n + hidden)) for n in (width, kept)]
    found = [f.macs if kind == "macs" else f.parameters for f in (made.report.before, made.report.after)]
    assert kept < width and found == counts
    assert 0.66 < counts[1] / counts[0] <= 0.7


@pytest.mark.parametrize(("kind", "share"), [("macs", 0.5), ("macs", 0.3), ("parameters", 0.5)])
def test_a_target_is_met_and_not_far_below(kind, share):
    result = graphopt.optimize(FASHION, prune=graphopt.Prune(recover=False, **{kind: share}), validate=False)
    before, after = figures(onnx_io.load(FASHION)), result.report.after
    left = (after.macs or 0) / (before.macs or 1) if kind == "macs" else after.parameters / before.parameters
    assert share - 0.06 < left <= share


def test_several_steps_end_at_the_same_target():
    options = graphopt.Prune(macs=0.5, iterative_steps=3, recover=False)
    result = graphopt.optimize(FASHION, prune=options, validate=False)
    assert 0.44 < (result.report.after.macs or 0) / (figures(onnx_io.load(FASHION)).macs or 1) <= 0.5


def test_what_cannot_be_reached_is_said():
    result = graphopt.optimize(FASHION, prune=graphopt.Prune(macs=0.001, recover=False), validate=False)
    assert "no more can be removed (least=0.1)" in result.report.stages[0].summary


def test_a_speedup_removes_until_it_is_measured(monkeypatch, tmp_path):
    """Where models run at the square root of what their nodes promise, more is removed."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))

    def timed(sessions, feeds, *, seconds, clock):
        timing = Timing("after", 1.0, 1.0, 1.0 / left[-1] ** 0.5, 9)
        return timing, timing

    left: list[float] = []
    pruned = stages.prune_model

    def watched(*arguments, **named):
        result = pruned(*arguments, **named)
        left.append(result.left)
        return result

    monkeypatch.setattr(stages, "prune_model", watched)
    monkeypatch.setattr(stages, "compare_latency", timed)
    monkeypatch.setattr(stages, "cost_of_nodes", lambda kind, model, feeds: cost_of_nodes("macs", model, feeds))
    graphopt.optimize(FASHION, prune=graphopt.Prune(speedup=1.5, recover=False), validate=False)
    assert left[-1] < 1 / 1.5**2 * 1.05 and left[0] > left[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"macs": 0.5, "speedup": 2}, "two targets"), ({"macs": 1.5}, "share between 0 and 1"),
        ({"speedup": 0.5}, "not above 1"), ({"parameters": True}, "a number"),
    ],
)  # fmt: skip
def test_targets_that_are_none(options, words):
    with pytest.raises(OptionError, match=words):
        graphopt.Prune(**options)


def test_words_of_the_command_line():
    assert from_words(None, ["macs=0.5", "round-to=16", "recover=false"]) == graphopt.Prune(
        macs=0.5, round_to=16, recover=False
    )
    with pytest.raises(OptionError, match="did you mean macs"):
        cli.app(["prune", str(FASHION), "--prune-option", "mac=0.5"], standalone_mode=False)


def test_the_seconds_of_nodes_are_measured_once(monkeypatch, tmp_path):
    """A speedup removes by them: in later processes the same."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    model = onnx_io.load(FASHION)
    feeds = synthesise(model, 1)[0]
    first = cost_of_nodes("speedup", model, feeds)
    monkeypatch.setattr("graphopt.passes.prune.select.costs.node_seconds", None)
    again = onnx_io.load(FASHION)
    assert [*cost_of_nodes("speedup", again, feeds).values()] == [*first.values()] and any(first.values())
