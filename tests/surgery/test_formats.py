"""Bytes in, classes and boxes out: by numpy's own arithmetic around the unedited model."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

import graphopt
import graphopt.cli
import graphopt.onnx_io
import graphopt.surgery.inputs
from graphopt.errors import OptionError
from graphopt.surgery import Bytes, Suppression
from tests.surgery.nets import IMAGE, X, net, ops, run

MEAN, STD = [0.4, 0.5, 0.3], [0.2, 0.25, 0.3]
PREPROCESSED = ((X - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))).astype(np.float32)


def close(ours, theirs):
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-4, atol=1e-5 * np.abs(array).max())


@pytest.mark.parametrize(
    ("pad", "first"), [(0, ["Transpose", "Cast", "Conv"]), (1, ["Transpose", "Cast", "Add", "Conv"])]
)
def test_bytes_with_channels_last_give_what_preprocessed_floats_give(pad, first):
    edited = graphopt.edit(net(pad), uint8={"x": Bytes(1 / 255, MEAN, STD, "NHWC")})
    assert ops(edited.model)[: len(first) + 1] == [*first, "Relu"] and edited.status == "equal"
    close(run(edited.model, {"x": IMAGE}), run(net(pad), {"x": PREPROCESSED}))
    assert edited.ir.graph.inputs[0].type.shape == ("N", 8, 8, 3)


def test_a_factor_alone_moves_into_a_padded_convolution():
    edited = graphopt.edit(net(1), uint8={"x": Bytes(1 / 255)})
    assert ops(edited.model)[:3] == ["Cast", "Conv", "Relu"]
    close(run(edited.model, {"x": IMAGE.transpose(0, 3, 1, 2)}), run(net(1), {"x": X}))
    assert ops(graphopt.edit(net(1), uint8={"x": Bytes()}).model)[:2] == ["Cast", "Conv"]


def test_given_floats_become_the_bytes_they_came_from():
    feeds = {"x": PREPROCESSED}
    edited = graphopt.edit(net(), uint8={"x": Bytes(1 / 255, MEAN, STD, "NHWC")}, feeds=feeds, rename={"x": "image"})
    assert edited.comparisons[0].shapes == ({"image": (2, 8, 8, 3)},)
    step = graphopt.surgery.inputs.TakeBytes("x", Bytes(1 / 255, MEAN, STD, "NHWC"))
    found = step.translate(graphopt.onnx_io.load(net()), [feeds], None)
    np.testing.assert_array_equal(found[0]["x"], IMAGE)


def test_where_several_nodes_read_the_input_the_arithmetic_stays():
    model = net(0)
    model.graph.node.append(helper.make_node("Neg", ["x"], ["n"]))
    model.graph.output.append(helper.make_tensor_value_info("n", TensorProto.FLOAT, ["N", 3, 8, 8]))
    edited = graphopt.edit(model, uint8={"x": Bytes(1 / 255, 0.5, 0.5)})
    assert ops(edited.model)[:4] == ["Cast", "Mul", "Add", "Conv"]
    close(run(edited.model, {"x": IMAGE.transpose(0, 3, 1, 2)}), run(model, {"x": (X - 0.5) / np.float32(0.5)}))


def test_channels_may_be_last_in_the_model_itself_and_halves_are_computed_in_single():
    model = parser.parse_model("""
    <ir_version: 8, opset_import: ["": 17]> g (float16[N,4,3] x) => (float16[N,4,3] y) { y = Tanh(x) }""")
    edited = graphopt.edit(model, uint8={"x": Bytes(1 / 255, MEAN, STD)})
    bytes_in = np.arange(12, dtype=np.uint8).reshape(1, 4, 3) * 20
    expected = np.tanh((bytes_in / 255 - MEAN) / STD)
    np.testing.assert_allclose(run(edited.model, {"x": bytes_in})["y"], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("format", "words"),
    [(Bytes(0.0), "not 0"), (Bytes(std=0.0), "not 0"), (Bytes(mean=[1, 2]), "2 numbers do not fit"),
     (Bytes(layout="NCWH"), "not NHWC"), (Bytes(mean=float("nan")), "finite")],
)  # fmt: skip
def test_formats_that_are_none_are_refused(format, words):
    with pytest.raises(OptionError, match=words):
        graphopt.edit(net(), uint8={"x": format})
    with pytest.raises(OptionError, match="no input 'y'"):
        graphopt.edit(net(), uint8={"y": Bytes()})


def test_outputs_become_classes_and_probabilities():
    scores = run(net(), {"x": X})["scores"]
    edited = graphopt.edit(net(), output_as={"scores": "argmax", "mean": "sigmoid"}, rename={"scores": "class"})
    results = run(edited.model, {"x": X})
    np.testing.assert_array_equal(results["class"], scores.argmax(1))
    np.testing.assert_allclose(results["mean"], 1 / (1 + np.exp(-run(net(), {"x": X})["mean"])), rtol=1e-5)
    assert [str(p.type) for p in edited.ir.graph.ports] == ["f32[N,4]", "i64[N]"]
    weights = np.exp(scores - scores.max(1, keepdims=True))
    soft = run(graphopt.edit(net(), output_as={"scores": "softmax:1"}).model, {"x": X})["scores"]
    np.testing.assert_allclose(soft, weights / weights.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "reason"),
    [({"scores": "argmx"}, "did you mean argmax"), ({"score": "argmax"}, "did you mean scores"),
     ({"scores": "argmax:2"}, "no axis 2"), ({"scores": "argmax:a"}, "is a number")],
)  # fmt: skip
def test_forms_that_are_none_are_refused(words, reason):
    with pytest.raises(OptionError, match=reason):
        graphopt.edit(net(), output_as=words)


BOXES = parser.parse_model("""
<ir_version: 8, opset_import: ["": 17]>
g (float[1,6,4] b, float[1,6,2] s) => (float[1,6,4] boxes, float[1,6,2] scores) {
    boxes = Identity(b)
    scores = Sigmoid(s)
}
""")


def naive(boxes, scores, iou, least):
    """(class, box) that greedy suppression keeps, best first; corners y1, x1, y2, x2."""

    def overlap(a, b):
        sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        both = sides.clip(0).prod()
        return both / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both)

    kept = []
    for c in range(scores.shape[1]):
        mine = []
        for i in np.argsort(-scores[:, c]):
            if scores[i, c] > least and all(overlap(boxes[i], boxes[j]) <= iou for j in mine):
                mine.append(i)
        kept += [(c, i) for i in mine]
    return kept


def test_the_boxes_that_suppression_keeps_are_returned():
    rng = np.random.default_rng(0)
    corners = rng.random((6, 2), np.float32) * 2
    feeds = {
        "b": np.concatenate([corners, corners + 1], 1)[None],
        "s": rng.standard_normal((1, 6, 2)).astype(np.float32),
    }
    edited = graphopt.edit(BOXES, suppress=Suppression("boxes", "scores", iou=0.3, min_score=0.4), feeds=feeds)
    results, plain = run(edited.model, feeds), run(BOXES, feeds)
    kept = naive(plain["boxes"][0], plain["scores"][0], 0.3, 0.4)
    assert 2 <= len(kept) < 12
    assert sorted(map(tuple, results["selected"][:, 1:].tolist())) == sorted((c, int(i)) for c, i in kept)
    for (_, c, i), box, score in zip(results["selected"], results["boxes"], results["scores"]):
        np.testing.assert_array_equal(box, plain["boxes"][0, i])
        assert score == plain["scores"][0, i, c]
    with pytest.raises(OptionError, match="expected f32"):
        graphopt.edit(net(), suppress=Suppression("mean", "scores"))


def test_formats_at_the_command_line(tmp_path):
    onnx.save(net(0), tmp_path / "m.onnx")
    words = ["--uint8", "x", "--scale", "1/255", "--mean", "0.4,0.5,0.3", "--std", "0.2,0.25,0.3", "--layout", "nhwc"]
    graphopt.cli.app(["edit", str(tmp_path / "m.onnx"), *words, "--output-as", "scores=argmax"], standalone_mode=False)
    results = run(onnx.load(tmp_path / "m.edited.onnx"), {"x": IMAGE})
    np.testing.assert_array_equal(results["scores"], run(net(0), {"x": PREPROCESSED})["scores"].argmax(1))
    for wrong in (["--scale", "a"], ["--scale", "1/0"], ["--mean", "1,2"], ["--scale", "1,2"]):
        with pytest.raises(OptionError, match=wrong[0][2:] if wrong[0] == "--scale" else "do not fit"):
            graphopt.cli.app(["edit", str(tmp_path / "m.onnx"), "--uint8", "x", *wrong], standalone_mode=False)
