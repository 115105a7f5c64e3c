"""Muon: orthogonal steps for matrices, Adam's for all else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.distillation.muon import Muon
from graphopt.gradient import AdamW, Trainer

RATE = 1e-2


def product(rows: int, columns: int, kernel: tuple[int, ...] = ()) -> helper.ModelProto:
    """x [N, columns, ...] to y [N, rows, ...] by a Gemm, or a Conv of a kernel."""
    w = np.random.default_rng(0).normal(size=(rows, columns, *kernel)).astype(np.float32)
    node = (
        helper.make_node("Conv", ["x", "w"], ["y"]) if kernel else helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    )
    size = [4] * len(kernel)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", columns, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", rows, *(4 - k + 1 for k in kernel)])],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def stepped(model, optimizer):
    """The change of the weight in one step, and its gradient there."""
    rng = np.random.default_rng(1)
    values = (*model.graph.input, *model.graph.output)
    shapes = [[d.dim_value or 16 for d in v.type.tensor_type.shape.dim] for v in values]
    feeds = {name: rng.normal(size=s).astype(np.float32) for name, s in zip(("x", "y.target"), shapes)}
    trainer = Trainer(model, loss="mse", optimizer=optimizer)
    before = trainer.state()
    trainer.step(feeds, RATE)
    after = trainer.state()
    return after["w"] - before["w"], after["w.momentum"] / (1 - optimizer.betas[0])


@pytest.mark.parametrize(("rows", "columns", "kernel"), [(12, 40, ()), (40, 12, ()), (16, 3, (3, 3))])
def test_a_matrix_moves_along_the_nearest_orthogonal_one(rows, columns, kernel):
    """Singular values of the step are those of a rotation, up to a fifth; its vectors are the gradient's."""
    change, gradient = stepped(product(rows, columns, kernel), Muon(weight_decay=0.0))
    matrix, g = (-a.reshape(rows, -1).astype(np.float64) for a in (change, -gradient))
    u, s, v = np.linalg.svd(g, full_matrices=False)
    size = 0.2 * RATE * math.sqrt(max(matrix.shape))
    turned = u.T @ matrix @ v.T / size
    assert s.max() > 2 * s.min(), "a gradient that is orthogonal already shows nothing"
    assert np.abs(np.diag(turned) - 1).max() < 0.25
    assert np.abs(turned - np.diag(np.diag(turned))).max() < 0.02
    assert np.sqrt(np.mean(change**2)) == pytest.approx(0.2 * RATE, rel=0.2)


@pytest.mark.parametrize(("rows", "columns"), [(4, 40), (300, 9)])
def test_narrow_and_long_weights_take_the_step_of_adam(rows, columns):
    changes = [stepped(product(rows, columns), optimizer)[0] for optimizer in (Muon(), AdamW(betas=Muon().betas))]
    assert np.array_equal(*changes)


def test_weights_decay():
    changes = [stepped(product(12, 40), Muon(weight_decay=decay))[0] for decay in (0.0, 0.5)]
    w = numpy_helper.to_array(product(12, 40).graph.initializer[0])
    assert changes[1] - changes[0] == pytest.approx(-RATE * 0.5 * w, abs=1e-5)
