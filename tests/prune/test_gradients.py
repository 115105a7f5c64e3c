"""Scores of channels from backward passes: their equations on a linear model, and the order of measured removals."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from scipy.stats import spearmanr

import graphopt
from graphopt import onnx_io
from graphopt.analysis.channels import find_channels
from graphopt.errors import ModelError
from graphopt.passes.prune.cut.remove import unshare
from graphopt.passes.prune.options import GRADIENTS
from graphopt.passes.prune.score.gradients import gradient_scores
from tests import nets


def two_layers(first: np.ndarray, second: np.ndarray, *more: onnx.NodeProto) -> onnx.ModelProto:
    """y = relu(x first) second."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("Relu", ["h"], ["a"]), *more,
        helper.make_node("MatMul", [more[0].output[0] if more else "a", "w2"], ["y"]),
    ]  # fmt: skip
    ports = [helper.make_tensor_value_info(n, 1, ["N", s]) for n, s in (("x", len(first)), ("y", second.shape[1]))]
    tensors = [numpy_helper.from_array(a, n) for n, a in (("w1", first), ("w2", second))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in ((5, 6), (6, 4), (48, 1, 5)))


@pytest.mark.parametrize("importance", GRADIENTS)
def test_a_linear_reader(importance: str) -> None:
    """∂y/∂m_c = a_c w2[c]: Fisher is E a_c² ‖w2[c]‖² / E ‖y‖² up to the spread of the signs, Taylor E (a_c ⟨w2[c], y⟩)²
    / (E ‖y‖²)² exactly."""
    first, second, x = arrays()
    model = onnx_io.load(two_layers(first, second))
    facts = find_channels(model)
    a = np.maximum(x[:, 0] @ first, 0)
    y = a @ second
    energy = np.square(y).sum(1).mean()
    if importance == "fisher":
        right, near = np.square(a).mean(0) * np.square(second).sum(1) / energy, 0.5
    else:
        right, near = np.square(a * (y @ second.T)).mean(0) / energy**2, 1e-3
    found = gradient_scores(model, facts, importance, [{"x": row} for row in x], 0)
    (group,) = facts.groups
    np.testing.assert_allclose(found[group.classes], right, rtol=near)
    assert spearmanr(found[group.classes], right).statistic > 0.8


def test_a_channel_with_several_readers_has_one_score() -> None:
    """y = a w2 + a w2 has twice the slope of y = a w2, and so has its result: the same score."""
    first, second, x = arrays()
    once, twice = two_layers(first, second), two_layers(first, second)
    twice.graph.node[-1].output[0] = "z1"
    twice.graph.node.append(helper.make_node("MatMul", ["a", "w2"], ["z2"]))
    twice.graph.node.append(helper.make_node("Add", ["z1", "z2"], ["y"]))
    found = []
    for proto in (once, twice):
        model = onnx_io.load(proto)
        unshare(model)
        facts = find_channels(model)
        scores = gradient_scores(model, facts, "taylor", [{"x": row} for row in x], 0)
        found.append(scores[facts.groups[0].classes])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


@pytest.mark.parametrize("importance", GRADIENTS)
def test_attention_and_depthwise(importance: str) -> None:
    for name in ("attention", "depthwise", "grouped"):
        model = nets.load(name)
        options = graphopt.Prune(ratio=0.5, round_to=1, importance=importance, global_ranking=False)
        (stage,) = graphopt.optimize(model, prune=options, validate=False).report.stages
        assert stage.changed, name


def test_an_operator_without_gradient_is_named() -> None:
    first, second, x = arrays()
    model = two_layers(first, second)
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(helper.make_node("Mystery", ["z"], ["y"], name="odd", domain="somewhere"))
    model.opset_import.append(helper.make_opsetid("somewhere", 1))
    ir = onnx_io.load(model)
    facts = find_channels(ir)
    with pytest.raises(ModelError, match="Mystery 'odd'"):
        gradient_scores(ir, facts, "fisher", [{"x": row} for row in x], 0)
