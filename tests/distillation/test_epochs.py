"""What is done to inputs: rectangles of others, mixtures, mirrored images; what labels allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.calibration import open_calibration
from graphopt.distillation import Distil
from graphopt.distillation.epochs import Epochs, Variety, mirrored
from graphopt.distillation.run import _Work
from graphopt.distillation.samples import Batch, Samples
from graphopt.onnx_io import load

IMAGES = np.random.default_rng(5).random((12, 1, 16, 20)).astype(np.float32)


def rows_summed(weights: np.ndarray) -> onnx.ModelProto:
    """The greatest and the least weighted sum over a row of an image."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceMax", ["c"], ["a"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMin", ["c"], ["b"], axes=[2, 3], keepdims=0),
        helper.make_node("Concat", ["a", "b"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 1, 16, 20))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 2))],
        [numpy_helper.from_array(weights.astype(np.float32).reshape(1, 1, 1, 20), "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples_of(labels: Any = None) -> Samples:
    return Samples([{"x": IMAGES}], load(rows_summed(np.ones(20))), 0.1, {} if labels is None else {"y": labels})


def varied(**variety: Any) -> Batch:
    return Epochs(samples_of(), 8, 0, Variety(**variety)).batch(0)


def test_patched_images_hold_a_rectangle_of_another():
    batch = varied(patches=1.0)
    sizes = set()
    for (_, row), image in zip(batch.rows, batch.feeds["x"][:, 0]):
        differs = image != IMAGES[row, 0]
        if not differs.any():
            continue  # its partner is itself
        rows, columns = (np.flatnonzero(differs.any(axis)) for axis in (1, 0))
        place = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        assert differs[place].all()
        assert any((image[place] == IMAGES[other, 0][place]).all() for _, other in batch.rows if other != row)
        sizes.add(differs.sum())
    assert len(sizes) > 3 and batch.is_mixed


def test_mixed_images_lie_between_two():
    batch = varied(mixing=1.0)
    shares = []
    for (_, row), image in zip(batch.rows, batch.feeds["x"]):
        for other in (other for _, other in batch.rows if other != row):
            way = IMAGES[other] - IMAGES[row]
            share = float(((image - IMAGES[row]) * way).sum() / (way * way).sum())
            if np.allclose(image, IMAGES[row] + share * way, atol=1e-6):
                shares.append(share)
    assert len(set(shares)) > 3 and all(0 <= share <= 1 for share in shares)


def test_mirrored_images_exchange_left_and_right():
    batch = varied(mirrors=True)
    is_mirrored = [(image == IMAGES[row, :, :, ::-1]).all() for (_, row), image in zip(batch.rows, batch.feeds["x"])]
    is_same = [(image == IMAGES[row]).all() for (_, row), image in zip(batch.rows, batch.feeds["x"])]
    assert any(is_mirrored) and any(is_same) and all(a != b for a, b in zip(is_mirrored, is_same))
    whole = Batch({"x": IMAGES}, tuple((0, i) for i in range(12)))
    assert (mirrored(whole, np.arange(12) < 1).feeds["x"][1:] == IMAGES[1:]).all()


def test_inputs_with_classes_are_combined_in_part_and_with_other_labels_left_alone():
    every = Variety(0.5, 0.5, True, True)
    assert every.for_samples(samples_of()) == every
    of_classes = every.for_samples(samples_of(np.zeros(12, np.int64)))
    assert of_classes == Variety(pytest.approx(1 / 3), pytest.approx(1 / 3), True, True)
    assert Variety(mixing=0.1).for_samples(samples_of(np.zeros(12, np.int64))).mixing == 0.1
    assert every.for_samples(samples_of(np.zeros((12, 2), np.float32))) == Variety()


def test_the_class_of_combined_rows_is_unknown():
    classes = np.arange(12, dtype=np.uint8) % 2
    samples = samples_of(classes)
    batch = Epochs(samples, 8, 0, Variety(mixing=0.5)).batch(0)
    found = samples.labels_of(batch)["y"]
    assert 0 < len(batch.combined) < 8 and set(np.flatnonzero(found == -100)) == set(batch.combined)
    whole = [k for k in range(8) if k not in batch.combined]
    assert [found[k] for k in whole] == [classes[batch.rows[k][1]] for k in whole]
    assert all((batch.feeds["x"][k] == IMAGES[batch.rows[k][1]]).all() for k in whole)


def absolute(y: Any, target: Any) -> Any:
    return (y - target.cast(y.dtype).unsqueeze([-1])).Abs().mean()


@pytest.mark.parametrize(("teacher", "loss", "mixing"), [(True, "auto", 1 / 3), (False, absolute, 0.0)])
def test_rows_are_combined_where_a_teacher_knows_them_and_the_loss_leaves_them_out(teacher, loss, mixing):
    model, labels = load(rows_summed(np.ones(20))), np.arange(12) % 2
    given = open_calibration({"x": IMAGES}, model)
    work = _Work(model, model if teacher else None, given, Distil(threads=1, loss=loss), labels, 0)
    assert work.task().epochs.variety.mixing == pytest.approx(mixing)


@pytest.mark.parametrize(("weights", "bears"), [(np.ones(20), True), (np.arange(20) < 1, False)])
def test_images_are_mirrored_where_the_teacher_does_not_mind(weights, bears):
    """Images grow brighter from left to right."""
    model, images = load(rows_summed(weights)), IMAGES * np.linspace(0, 1, 20, dtype=np.float32)
    work = _Work(model, model, open_calibration({"x": images}, model), Distil(threads=1), None, 0)
    assert work.task().epochs.variety.mirrors is bears
