"""What the report tells of each layer: the error of its weights, and what it alone costs the model."""

import math

import numpy as np
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt import onnx_io
from graphopt.compress.stages import stage_context
from graphopt.errors import ModelError, OptionError
from graphopt.measure import ort_session
from graphopt.passes.quantize.candidates.calibrated_model import calibrate_model
from graphopt.passes.quantize.errors import predicted_errors, single_unit_errors
from graphopt.passes.quantize.errors.single_unit_errors import SingleUnitErrors
from graphopt.passes.quantize.place import accuracy_guard
from tests.quantize.nets import convnet, images, parse

FEEDS = images(16)


def bad_convnet():
    """Weights of the second layer that meet a channel always zero are huge, and spoil its scales to no use."""
    model = convnet()
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, rows, value in (("w1", 0, 0.0), ("b1", 0, 0.0), ("w2", (slice(None), 0), 100.0)):
        array = numpy_helper.to_array(tensors[name]).copy()
        array[rows] = value
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))
    for i, node in enumerate(model.graph.node):
        node.name = f"node{i}"
    return model


def stage_of(model, **options):
    settings = {"speed": False, "equalize": False, "min_sqnr": -100.0, "min_top1": 0.0, **options}
    made = graphopt.optimize(model, quantize=graphopt.Quantize(**settings), calibration=FEEDS)
    return made, made.report.stages[0]


def column(stage, name):
    return {row[0]: row[stage.columns.index(name)] for row in stage.rows}


@pytest.mark.parametrize("mode", ["static", "weights"])
def test_the_layer_made_worst_ranks_first(mode):
    made, stage = stage_of(bad_convnet(), mode=mode, sensitivity=True)
    page = made.report.to_html(seconds=0)
    for name in ("weight error", "error alone"):
        found = column(stage, name)
        assert len(found) == 5 and all(math.isfinite(v) and v > 0 for v in found.values())
        worst, second = sorted(found, key=found.__getitem__)[:-3:-1]
        assert worst == "node2" and found[worst] > 5 * found[second]
        for layer in (worst, second):
            width = f"width:{100 * found[layer] / found[worst]:.1f}%"
            assert f'{found[layer]:.4g}<span class="bar"><i class="" style="{width}"' in page


def test_error_alone_is_that_of_the_layer_quantized_alone():
    _, stage = stage_of(bad_convnet(), sensitivity=True)
    for name in ("node0", "node2", "node12"):
        others = [f"node{i}" for i in range(13) if f"node{i}" != name]  # sums and pools too
        made, _ = stage_of(bad_convnet(), nodes_to_exclude=others)
        reference, result = (
            np.concatenate([ort_session(m.SerializeToString()).run(None, f)[0] for f in FEEDS[:4]])
            for m in (bad_convnet(), made.model)
        )
        error = np.linalg.norm(result - reference) / np.linalg.norm(reference)
        assert column(stage, "error alone")[name] == pytest.approx(error, rel=0.05)


def test_errors_are_measured_without_predictions_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(single_unit_errors, "predicted_errors", None)
    stage = stage_of(bad_convnet(), sensitivity="measured")[1]
    assert "error predicted" not in stage.columns and column(stage, "error alone")["node2"] > 0
    with pytest.raises(OptionError, match="sensitivity 'predicted' is not True, False or 'measured'"):
        graphopt.Quantize(sensitivity="predicted")


def test_scores_are_compared_before_a_softmax():
    """What a layer costs does not hang on how close the classes of a few samples are."""
    model = bad_convnet()
    scores = column(stage_of(model, sensitivity=True)[1], "error alone")
    model.graph.node.append(helper.make_node("Softmax", ["y"], ["chances"], name="node13", axis=1))
    model.graph.output[0].name = "chances"
    made, stage = stage_of(model, sensitivity=True)
    assert column(stage, "error alone") == pytest.approx(scores, rel=0.05)
    assert made.model.graph.node[-1].op_type == "Softmax"


def test_it_is_measured_only_when_asked_for_or_needed():
    _, plain = stage_of(convnet())
    assert "error alone" not in plain.columns and len(plain.columns) == len(plain.rows[0])
    errors = column(plain, "weight error")
    assert len(errors) == 5 and all(0 < v < 0.1 for v in errors.values())
    _, guarded = stage_of(bad_convnet(), min_sqnr=20.0)
    alone = column(guarded, "error alone")
    assert len(alone) == 5 and all(math.isfinite(v) for v in alone.values())
    assert column(guarded, "runs on")["node2"] == "float"


def test_noise_of_stored_weights_is_told_in_decibels():
    """Units without observed results rank by the same measure as those with: 20 log10 of the relative error."""
    made = onnx_io.load(bad_convnet())
    options = graphopt.Quantize(mode="weights", speed=False)
    context = stage_context(made, FEEDS)
    calibrated = calibrate_model(made, options, context)
    assert len(calibrated.units.layers) == 5
    for unit in calibrated.units.layers:
        assert accuracy_guard._estimated_noise(calibrated, unit) == pytest.approx(
            20 * math.log10(calibrated.solved[unit.node].error)
        )


@pytest.mark.parametrize("mode", ["static", "weights"])
def test_predicted_errors_are_those_measured(mode):
    """To first order: what rounds is computed exactly, and few elements of results leave no spread of directions."""
    _, stage = stage_of(convnet(), mode=mode, sensitivity=True)
    alone, predicted = column(stage, "error alone"), column(stage, "error predicted")
    assert len(predicted) == 5 and predicted.keys() == alone.keys()
    assert predicted == pytest.approx(alone, rel=0.15)
    assert stage.figures["rank_correlation"] >= 0.9


def test_inputs_quantized_while_running_are_predicted(monkeypatch):
    """Where weights are so large that sessions of single layers are dear, only the worse half of these is measured."""
    rng = np.random.default_rng(1)
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N,24] x) => (float[N,8] y)
        <float[24,32] w1, float[32,32] w2, float[32,8] w3> {
            a = MatMul(x, w1)
            b = Tanh(a)
            c = MatMul(b, w2)
            d = Relu(c)
            y = MatMul(d, w3)
        }""",
        **{f"w{i}": rng.standard_normal(s).astype(np.float32) for i, s in enumerate(((24, 32), (32, 32), (32, 8)), 1)},
    )  # fmt: skip
    feeds = [{"x": rng.standard_normal((4, 24)).astype(np.float32)} for _ in range(8)]
    settings = {"mode": "dynamic", "speed": False, "min_sqnr": -100.0, "sensitivity": True}
    stage = graphopt.optimize(model, quantize=graphopt.Quantize(**settings), calibration=feeds).report.stages[0]
    alone, predicted = column(stage, "error alone"), column(stage, "error predicted")
    assert len(alone) == 3 and predicted == pytest.approx(alone, rel=0.2)
    monkeypatch.setattr(accuracy_guard, "COPIED", 0)
    measured, measure = list[str](), SingleUnitErrors.measure

    def watched(errors, units):
        measured.extend(unit.name for unit in units)
        measure(errors, units)

    monkeypatch.setattr(SingleUnitErrors, "measure", watched)
    settings = {**settings, "sensitivity": False, "min_sqnr": 44.0}
    stage = graphopt.optimize(model, quantize=graphopt.Quantize(**settings), calibration=feeds).report.stages[0]
    ranked = sorted(predicted, key=predicted.__getitem__)
    assert sorted(measured) == sorted(ranked[1:])
    assert column(stage, "runs on")[max(alone, key=alone.__getitem__)] == "float"


def test_without_gradients_there_is_no_prediction(monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise ModelError("no gradient")

    monkeypatch.setattr(predicted_errors, "relative_changes", refused)
    _, stage = stage_of(convnet(), sensitivity=True)
    assert "error predicted" not in stage.columns and stage.figures["rank_correlation"] is None


def test_many_units_are_ranked_by_predicted_errors(monkeypatch):
    """Beyond the limit no unit is measured, and the layer made worst is the one that returns to float."""
    monkeypatch.setattr(accuracy_guard, "ONE_BY_ONE", 0)
    _, stage = stage_of(bad_convnet(), min_sqnr=20.0)
    assert column(stage, "runs on")["node2"] == "float" and "error alone" not in stage.columns
