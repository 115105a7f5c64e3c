"""Equality of what is decided by scores: indices, flags and boxes may differ where the scores are tied."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto as T

from graphopt.equivalence import compare
from tests.equivalence.nets import dense, f32, model, node


def argmax(weight: np.ndarray) -> onnx.ModelProto:
    return dense("ArgMax", T.INT64, weight=weight, axis=1, keepdims=0)


def test_argmax_may_differ_only_where_the_scores_are_tied():
    tied = f32(8, 6)
    tied[:, 1] = tied[:, 0]
    first, second = tied.copy(), tied.copy()
    first[:, 0] *= np.float32(1 + 1e-6)
    second[:, 1] *= np.float32(1 + 1e-6)
    assert compare(argmax(first), argmax(second), power=False).status == "equal"
    assert compare(argmax(tied), argmax(np.roll(tied, 1, axis=1)), power=False).status == "different"


def test_topk_indices_may_differ_only_where_the_scores_are_tied():
    def topk(weight: np.ndarray) -> onnx.ModelProto:
        nodes = [node("MatMul", "x w", "h"), node("TopK", "h k", "v i")]
        outputs = [("v", T.FLOAT, None), ("i", T.INT64, None)]
        return model(nodes, [("x", T.FLOAT, ["N", 8])], outputs, {"w": weight, "k": np.array([6])})

    tied = f32(8, 6)
    tied[:, 1] = tied[:, 0]
    other = tied.copy()
    other[:, 1] *= np.float32(1 + 1e-6)
    assert compare(topk(tied), topk(other), power=False).status == "equal"
    swapped = tied.copy()
    swapped[:, [2, 3]] = swapped[:, [3, 2]]
    assert compare(topk(tied), topk(swapped), power=False).status == "different"


def detector(scale: float = 1.0, head: float = 1.0, *, most: int = 4) -> onnx.ModelProto:
    """The places of the highest sums, and a head on what lies there."""
    nodes = [
        node("MatMul", "x w", "h"), node("Mul", "h c", "scores"), node("ReduceSum", "scores last", "s", keepdims=0),
        node("TopK", "s k", "v i"), node("Unsqueeze", "i last", "j"), node("Expand", "j wide", "e"),
        node("MatMul", "x u", "f"), node("GatherElements", "f e", "g", axis=1), node("MatMul", "g t", "y"),
    ]  # fmt: skip
    weights = {
        "w": np.ones((8, 6), np.float32), "c": np.float32(scale), "last": np.array([-1]), "k": np.array([most]),
        "wide": np.array([1, most, 5]),
        "u": f32(8, 5, seed=1), "t": f32(5, 3, seed=2, scale=head),
    }  # fmt: skip
    outputs = [("y", T.FLOAT, None), ("v", T.FLOAT, None)]
    return model(nodes, [("x", T.FLOAT, [1, 9, 8])], outputs, weights)


def test_near_ties_are_decided_as_the_original_decides_them():
    rng = np.random.default_rng(0)
    row = rng.standard_normal(8)
    feeds = {"x": np.stack([row[rng.permutation(8)] for _ in range(9)])[None].astype(np.float32)}  # near, but unlike
    assert compare(detector(), detector(), feeds).status == "equal"
    assert compare(detector(), detector(1 + 1e-6), feeds, power=False).status == "equal"
    for other in (detector(1.01), detector(1.0, 1.01), detector(most=3)):
        assert compare(detector(), other, feeds, power=False).status == "different"


def threshold(at: float) -> onnx.ModelProto:
    return model([node("Greater", "x t", "y")], [("x", T.FLOAT, [4])], [("y", T.BOOL, [4])], {"t": np.float32(at)})


def test_a_bool_may_flip_only_at_its_threshold():
    feeds = {"x": np.array([-1, 0.5, 1, 2], np.float32)}
    assert compare(threshold(0.5), threshold(0.49999), feeds).status == "equal"
    feeds["x"][1] = 0.45
    assert compare(threshold(0.5), threshold(0.4), feeds).status == "different"


def suppress(limit: float = 0.5, *, backwards: bool = False) -> onnx.ModelProto:
    """NonMaxSuppression, its rows as they come or in the opposite order."""
    nodes = [node("NonMaxSuppression", "boxes scores most iou floor", "rows" if backwards else "picked")]
    if backwards:
        nodes.append(node("Slice", "rows minus far zero minus", "picked"))
    return model(
        nodes, [("boxes", T.FLOAT, [1, 6, 4]), ("scores", T.FLOAT, [1, 1, 6])], [("picked", T.INT64, [None, 3])],
        {
            "most": np.array([6]), "iou": np.array([limit], np.float32), "floor": np.array([0.2], np.float32),
            "zero": np.array([0]), "minus": np.array([-1]), "far": np.array([-100]),
        },
    )  # fmt: skip


def test_nonmaxsuppression_rows_compare_as_sets():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 4, (1, 6, 2))
    feeds = {
        "boxes": np.concatenate([corner, corner + 1.5], -1).astype(np.float32),
        "scores": rng.uniform(0.3, 1, (1, 1, 6)).astype(np.float32),
    }
    assert compare(suppress(), suppress(backwards=True), feeds).status == "equal"
    assert compare(suppress(), suppress(0.0), feeds).status == "different"
