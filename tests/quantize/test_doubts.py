"""Doubts about calibration data: other units than the model's, a single sample; none about what fits."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.calibration import doubts, open_calibration
from tests.quantize.nets import convnet, images, parse

ROOT = Path(__file__).resolve().parents[2]
FASHION = ROOT / "models" / "fashion_cnn.onnx"
IMAGES = np.load(ROOT / "models" / "fashion_calibration.npz")["image"].reshape(-1, 1, 28, 28)


def found(model, feeds):
    return doubts(onnx_io.load(model), open_calibration(feeds, model))


def feeds_of(array):
    return [{"image": image[None].astype(np.float32)} for image in array[:8]]


@pytest.mark.parametrize(("factor", "words"), [
    (255, "times as far from the running mean"), (1 / 255, "of what its running variance says"), (1, ""),
    (4, ""), (1 / 4, ""),
])  # fmt: skip
def test_units_show_at_the_first_batch_normalization(factor, words):
    assert any(node.op_type == "BatchNormalization" for node in onnx.load(FASHION).graph.node)
    notes = found(FASHION, feeds_of(IMAGES * factor))
    assert len(notes) == bool(words) and all(words in note and "calibration: the data may" in note for note in notes)


def normalising(text):
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (float[N,3,16,16] x) => (float[N,4,16,16] y)
        <float[4,3,3,3] w, float[1,3,1,1] mean, float[1,3,1,1] std, float by>
        {{ {text} y = Conv<pads=[1,1,1,1]>(n, w) }}""",
        mean=np.float32([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1),
        std=np.float32([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1), by=np.float32(255),
    )  # fmt: skip


UNIT, BYTES = "s = Sub(x, mean) n = Div(s, std)", "b = Div(x, by) s = Sub(b, mean) n = Div(s, std)"


@pytest.mark.parametrize(("text", "top", "words"), [
    (UNIT, 1, ""), (UNIT, 255, "(0 to 255 where 0 to 1 is meant?)"),
    (BYTES, 255, ""), (BYTES, 1, "(0 to 1 where 0 to 255 is meant?)"),
])  # fmt: skip
def test_units_show_behind_the_models_own_normalisation(text, top, words):
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.uniform(0, top, (1, 3, 16, 16)).astype(np.float32)} for _ in range(4)]
    notes = found(normalising(text), feeds)
    assert len(notes) == bool(words) and all(words in note and "calibration: x may" in note for note in notes)


def test_a_scalar_is_no_picture():
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N,4] x, float rate) => (float[N,4] y)
        <float by> { r = Div(rate, by) y = Mul(x, r) }""", by=np.float32(16000),
    )  # fmt: skip
    assert found(model, [{"x": np.ones((1, 4), np.float32), "rate": np.float32(16000)}] * 2) == ()


def test_one_sample_is_doubted_and_one_batch_is_not():
    assert found(convnet(), images(1)) == (
        "calibration: one sample was given, and its ranges seldom hold for others: give 50 to 500",
    )
    assert found(convnet(), [{"x": np.concatenate([feed["x"] for feed in images(8)])}]) == ()
    assert found(convnet(), images(2)) == ()


def test_doubts_are_notes_of_the_report_and_warnings():
    with pytest.warns(UserWarning, match="running mean"):
        report = graphopt.optimize(FASHION, quantize="static", calibration=feeds_of(IMAGES * 255)).report
    assert any("running mean" in note for note in report.notes) and "running mean" in report.to_json()
