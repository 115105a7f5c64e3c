"""Which results a judge asks for the same largest element, and what that changes."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.compress import stages
from graphopt.machine.sessions import DISABLE_PACKING
from graphopt.measure import Quality, ort_session
from graphopt.measure.classes import classifications
from graphopt.passes.quantize.place import accuracy_guard
from tests.quantize.nets import convnet, images, parse

HEAD = "<float[8,8] w, float[8,8] v, float[8] b>"


@pytest.mark.parametrize(
    "outputs, body, found",
    [
        ("float[N,8] y", "y = Gemm(x, w, b)", {0: "Gemm"}),
        ("float[N,8] y", "h = MatMul(x, w) a = Add(b, h) y = Identity(a)", {0: "MatMul"}),
        ("float[N,8] y", "t = Transpose(w) y = MatMul(x, t)", {0: "MatMul"}),
        ("float[N,8] y", "h = MatMul(x, w) y = LogSoftmax(h)", {0: "LogSoftmax"}),
        ("float[N,8] boxes", "boxes = Gemm(x, w, b)", {}),
        ("float[N,8] y", "h = Gemm(x, w, b) y = Sigmoid(h)", {}),
        ("float[N,8] y", "h = Gemm(x, w, b) y = Add(h, x)", {}),
        ("float[N,8] y, float[N,8] z", "z = Gemm(x, w, b) y = Tanh(z)", {1: "Gemm"}),
    ],
)
def test_classes_are_told_by_what_makes_them(outputs, body, found):
    model = parse(f"""<ir_version: 8, opset_import: ["" : 17]> net (float[N,8] x) => ({outputs}) {HEAD} {{ {body} }}""")
    assert dict(classifications(onnx_io.load(model))) == found


@pytest.mark.parametrize("inputs, read", [("float[1,S,8] x", "x"), ("int64[1,S] ids", "x")])
@pytest.mark.parametrize("boxes", [False, True])
def test_rows_of_rank_three_are_classes_in_language_models_alone(inputs, read, boxes):
    table = "x = Gather(t, ids)" if "ids" in inputs else ""
    second, more = (", float[1,S,4] z", "z = MatMul(x, u)") if boxes else ("", "")
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net ({inputs}) => (float[1,S,8] y{second})
        <float[8,8] w, float[8,4] u, float[9,8] t> {{ {table} y = MatMul({read}, w) {more} }}"""
    )
    assert bool(classifications(onnx_io.load(model))) == ("ids" in inputs and not boxes)


def detector():
    """Maps of boxes and scores joined: the largest of a row is a place in the image."""
    return parse(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N,3,16,16] x) => (float[N,9,256] y)
        <float[8,3,3,3] w1, float[4,8,1,1] w2, float[5,8,1,1] w3>
        { c = Conv<pads=[1,1,1,1]>(x, w1) r = Relu(c) b = Conv(r, w2) s = Conv(r, w3) p = Sigmoid(s)
          j = Concat<axis=1>(b, p) shape = Constant<value_ints=[0,9,256]>() y = Reshape(j, shape) }"""
    )


def test_a_detector_is_judged_by_noise_alone_unless_asked_otherwise():
    stages = {}
    for judge in ("auto", "sqnr", "top1"):
        options = graphopt.Quantize(speed=False, min_top1=1.0, judge=judge)
        stages[judge] = graphopt.optimize(detector(), quantize=options, calibration=images(6)).report.stages[0]
    assert stages["auto"].figures["layers"] == stages["sqnr"].figures["layers"] == 3
    assert "(floor 15 dB; no result holds scores of classes)" in stages["auto"].summary
    assert "(floor 15 dB; judge sqnr)" in stages["sqnr"].summary
    assert (stages["top1"].figures["layers"] or 0) < 3 and "100% of top-1; judge top1" in stages["top1"].summary


def test_a_classifier_is_judged_by_its_classes():
    made = graphopt.optimize(convnet(), quantize=graphopt.Quantize(speed=False), calibration=images(16))
    assert "top-1 agreement" in made.report.stages[0].summary
    assert "(floor 15 dB, 90% of top-1; classes by Gemm)" in made.report.stages[0].summary
    strict = graphopt.Quantize(speed=False, min_top1=1.0, min_sqnr=-np.inf, judge="sqnr")
    made = graphopt.optimize(convnet(), quantize=strict, calibration=images(16))
    assert "results not compared: the floor is off" in made.report.stages[0].summary


def test_results_without_noise_are_told_in_words():
    """Weights of zero are the same as codes; "SQNR inf dB" told nothing."""
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N,64] x) => (float[N,64] y)
        <float[64,64] w> { y = MatMul(x, w) }"""
    )
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((64, 64), np.float32), "w"))
    data = [{"x": np.full((2, 64), i, np.float32)} for i in range(3)]
    summary = graphopt.optimize(model, quantize="weights", calibration=data).report.stages[0].summary
    assert "the same results" in summary
    assert "inf" not in summary


@pytest.mark.parametrize("tried, left, trials", [(1 << 32, 64, 9), (1 << 32, 4, 4), (3000, 64, 3), (0, 64, 0)])
def test_the_guard_tries_to_spare_as_many_units_as_its_trials_may_read_of_weights(tried, left, trials, monkeypatch):
    """Units 8, 6 and 3 are ranked too harmful: they can be spared where a trial reaches them."""
    reference = onnx_io.load(parse(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N,8] x) => (float[N,31] y)
        <float[8,31] w> { y = MatMul(x, w) }"""
    ))  # fmt: skip
    monkeypatch.setattr(accuracy_guard, "TRIED", tried)
    judge, asked = SimpleNamespace(left=left, context=SimpleNamespace(quality=Quality(reference, ort_session, []))), []
    found = accuracy_guard._needed(
        range(10), lambda units: asked.append(units) or {0, 1, 2, 4, 5, 7, 9} <= {*units}, judge
    )
    assert len(asked) == trials and 9 in found
    assert found == [u for u in range(10) if u not in [u for u in (8, 6, 3) if u >= 9 - trials]]


def test_the_reference_and_a_candidate_are_never_open_at_once():
    model, open_now, most = onnx_io.load(convnet()), [0], [0]

    class Counted:
        def __init__(self, model):
            self.session = ort_session(model)
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])

        def run(self, names, feeds):
            return self.session.run(names, feeds)

        def __del__(self):
            open_now[0] -= 1

    fidelity = Quality(model, Counted, images(1)).fidelity(onnx_io.load(convnet()))
    assert fidelity.sqnr_db == np.inf and most == [1]


@pytest.mark.parametrize(("limit", "packs"), [(0, False), (1 << 30, True)])
def test_judges_of_large_weights_pack_none(limit, packs, monkeypatch):
    monkeypatch.setattr(stages, "PACKED_BESIDE", limit)
    session = stages.session_maker("portable")(onnx_io.load(convnet()))
    settings = getattr(session, "session", session).get_session_options()
    if packs:
        with pytest.raises(RuntimeError):
            settings.get_session_config_entry(DISABLE_PACKING)
    else:
        assert settings.get_session_config_entry(DISABLE_PACKING) == "1"
