"""Pruning in several steps: each refits to the channels of the original that are still there."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.calibration import open_calibration
from graphopt.measure import ort_session
from graphopt.onnx_io import load
from graphopt.passes.prune.best_way import prune_model

WIDTH = 8


def twins():
    """Three layers, x [N,6] to y [N,3], in which each hidden channel has a copy of half its size: the copies can go."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(6, WIDTH)), rng.normal(size=(WIDTH, WIDTH))
    first, second = first / np.linalg.norm(first, axis=0), second / np.linalg.norm(second, axis=0)
    last = rng.normal(size=(WIDTH, 3))
    halved = np.vstack([second, second / 2])
    arrays = {
        "w1": np.hstack([first / 2, first]), "w2": np.hstack([halved / 2, halved]), "w3": np.vstack([last, last / 2]),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]), helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["b"]), helper.make_node("Relu", ["b"], ["s"]),
        helper.make_node("MatMul", ["s", "w3"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 3))],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_steps_lose_nothing_where_half_of_the_channels_are_copies(steps):
    model, x = load(twins()), np.random.default_rng(1).normal(size=(256, 6)).astype(np.float32)
    options = graphopt.Prune(ratio=0.5, importance="l2", global_ranking=False, round_to=1, iterative_steps=steps)
    pruned = prune_model(model, options, 0.5, open_calibration({"x": x}, model))
    assert pruned.removed == WIDTH * 2
    expected, found = (ort_session(m).run(None, {"x": x})[0] for m in (model, pruned.model))
    assert np.square(found - expected).sum() < 1e-3 * np.square(expected).sum()


@pytest.mark.parametrize("is_once_better", [True, False])
def test_the_better_of_several_steps_and_of_one_is_taken(is_once_better, monkeypatch):
    """Errors are made up, so that either is the better one; the made-up ones are those of samples held out."""
    model, x = load(twins()), np.random.default_rng(1).normal(size=(256, 6)).astype(np.float32)
    feeds = open_calibration({"x": x}, model)
    judged = []

    def errors(held_out, pruned):
        judged.append(pruned)
        assert len(held_out.feeds) >= 3
        return np.full(len(held_out.feeds), 2.0 if (len(judged) == 1) == is_once_better else 1.0)

    monkeypatch.setattr("graphopt.passes.prune.best_way.HeldOutError.errors", errors)
    shares = []
    options = graphopt.Prune(ratio=0.5, importance="l2", recover=False, round_to=1, iterative_steps=2)
    pruned = prune_model(model, options, 0.5, feeds, progress=shares.append)
    assert pruned.options.iterative_steps == (1 if is_once_better else 2) and pruned.model is judged[is_once_better]
    assert pruned.removed == WIDTH * 2 and shares == pytest.approx([1 / 3, 2 / 3, 1])


def test_made_up_inputs_do_not_judge_steps(monkeypatch):
    def errors(held_out, pruned):
        raise AssertionError("judged")

    monkeypatch.setattr("graphopt.passes.prune.refit.held_out.HeldOutError.errors", errors)
    model = load(twins())
    feeds = open_calibration(None, model)
    options = graphopt.Prune(ratio=0.5, importance="l2", recover=False, round_to=1, iterative_steps=2)
    assert prune_model(model, options, 0.5, feeds, is_rough=True).options.iterative_steps == 2


@pytest.mark.parametrize("is_global", [True, False])
def test_steps_that_round_up_remove_as_much_in_the_end(is_global):
    """16 channels less an eighth are 14, which is 16 in multiples of 8: a later step makes up for it."""
    model = load(twins())
    options = graphopt.Prune(importance="l2", global_ranking=is_global, recover=False, iterative_steps=4)
    pruned = prune_model(model, options, 0.5, [])
    assert [one.kept for one in pruned.allocations] == [8, 8]


def test_a_share_of_its_own_is_one_of_the_width_before_all_steps():
    model = load(twins())
    first = next(iter(model.graph)).output.name
    options = graphopt.Prune(importance="l2", ratios={first: 0.5}, round_to=1, recover=False, iterative_steps=4)
    pruned = prune_model(model, options, 0.0, [])
    assert [one.kept for one in pruned.allocations] == [8, 16]


def test_the_least_share_is_one_of_the_width_before_all_steps():
    model = load(twins())
    options = graphopt.Prune(importance="l2", least=0.5, round_to=1, recover=False, iterative_steps=4)
    pruned = prune_model(model, options, 0.9, [])
    assert [one.kept for one in pruned.allocations] == [8, 8]
