"""Recurrent layers: weights stored as codes, LSTM on integers for onnxruntime, and why others stay as they are."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import onnx_io
from graphopt.measure import Timing, figures, ort_session
from graphopt.passes.quantize import recurrent as stage_of_recurrent

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FEEDS = [{"x": np.random.default_rng(i).standard_normal((6, 1, 24)).astype(np.float32)} for i in range(6)]


def recurrent(op: str, direction: str = "bidirectional", hidden: int = 32) -> onnx.ModelProto:
    rng, ways = np.random.default_rng(0), 2 if direction == "bidirectional" else 1
    shapes = {
        "w": (ways, GATES[op] * hidden, 24),
        "r": (ways, GATES[op] * hidden, hidden),
        "b": (ways, 2 * GATES[op] * hidden),
    }
    stored = [numpy_helper.from_array((rng.standard_normal(s) * 0.2).astype(np.float32), n) for n, s in shapes.items()]
    attrs = {"direction": direction, "hidden_size": hidden}
    node = helper.make_node(op, ["x", "w", "r", "b"], ["y", "h"], name="layer", **attrs)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, 1, 24])
    results = {"y": [6, ways, 1, hidden], "h": [ways, 1, hidden]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in results.items()]
    graph = helper.make_graph([node], "net", [x], outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def quantized(model: onnx.ModelProto, mode: str, target: str = "onnxruntime", **options: object) -> graphopt.Result:
    settings = {"speed": False, "min_top1": 0.0, **options}
    return graphopt.optimize(
        model,
        quantize=graphopt.Quantize(mode=mode, **settings),
        calibration=FEEDS,
        target=target,  # type: ignore[arg-type]
    )


def sqnr(made: graphopt.Result, model: onnx.ModelProto) -> float:
    a, b = ort_session(model.SerializeToString()), ort_session(made.model.SerializeToString())
    pairs = [(x, y) for feed in FEEDS for x, y in zip(a.run(None, feed), b.run(None, feed))]
    return 10 * np.log10(sum((x**2).sum() for x, _ in pairs) / sum(((x - y) ** 2).sum() for x, y in pairs))


def refusals(made: graphopt.Result) -> dict[str, str]:
    return dict(made.report.stages[0].refused)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_lstm_runs_on_integers_in_onnxruntime(direction, per_channel):
    model = recurrent("LSTM", direction)
    made = quantized(model, "dynamic", per_channel=per_channel)
    assert [node.op_type for node in made.model.graph.node] == ["DynamicQuantizeLSTM"]
    assert sqnr(made, model) > 30
    row = made.report.stages[0].rows[0]
    assert row[:4] == ("layer", "LSTM", "int8", 8) and row[8].startswith("exact")


@pytest.mark.parametrize("mode, per_channel", [("dynamic", True), ("dynamic", False), ("weights", True)])
def test_u8_weights_are_stored_as_such(mode, per_channel):
    model = recurrent("LSTM")
    made = quantized(model, mode, weight_type="uint8", per_channel=per_channel)
    codes = [t for t in made.model.graph.initializer if t.data_type in (TensorProto.UINT8, TensorProto.INT8)]
    stored = [numpy_helper.to_array(t).dtype for t in codes if len(t.dims) == 3]
    assert stored == [np.uint8, np.uint8] and sqnr(made, model) > 30


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_weights_of_any_are_stored_as_codes(op):
    model = recurrent(op, hidden=48)
    made = quantized(model, "weights", target="portable")
    assert [node.op_type for node in made.model.graph.node] == ["DequantizeLinear"] * 2 + [op]
    onnx.checker.check_model(made.model, full_check=True)
    assert sqnr(made, model) > 35
    assert made.model.ByteSize() < 0.4 * model.ByteSize()


def test_what_stays_float_says_why():
    assert refusals(quantized(recurrent("GRU"), "dynamic"))["layer"].startswith("only LSTM runs on integers")
    assert refusals(quantized(recurrent("LSTM"), "dynamic", target="portable"))["layer"].endswith("target onnxruntime")
    assert refusals(quantized(recurrent("LSTM"), "static"))["layer"] == "LSTM has no static integer form"
    assert refusals(quantized(recurrent("LSTM", hidden=4), "dynamic"))["layer"] == "its weights are few"
    excluded = quantized(recurrent("LSTM"), "dynamic", nodes_to_exclude=("layer",))
    assert refusals(excluded)["layer"] == "excluded by name"
    strict = quantized(recurrent("LSTM"), "dynamic", min_sqnr=90.0)
    assert refusals(strict)["layer"] == "returned to float for accuracy" and not strict.report.stages[0].changed


@pytest.mark.parametrize("ratio", [0.7, 1.3])
@pytest.mark.parametrize("op, mode", [("LSTM", "dynamic"), ("LSTM", "weights"), ("GRU", "weights")])
def test_every_mode_is_timed_and_stored_weights_stay_at_any_speed(op, mode, ratio, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    asked = []

    def timings(sessions, feed):
        asked.append(len(sessions))
        return [Timing("int8", 1e-3, 1e-3, ratio, 20, 0.0)]

    monkeypatch.setattr(stage_of_recurrent, "stable_timings", timings)
    made = quantized(recurrent(op), mode, speed=True)
    stage = made.report.stages[0]
    assert asked == [2] and stage.changed == (ratio > 1 or mode == "weights")
    if stage.changed:
        assert stage.figures["speed"] == ratio and f"{ratio:.2f}× as fast with them as without" in stage.summary
    else:
        assert refusals(made)["layer"] == "does not gain on integers here"
    assert ("slower than float here (0.70×)" in stage.summary) == (stage.changed and ratio < 1)
    assert ("slower than float here" in caplog.text) == (stage.changed and ratio < 1)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_every_step_multiplies_the_input_and_the_state(op, direction, layout):
    """time · batch · directions · gates · hidden · (inputs + hidden), ONNX's equations written out."""
    ways, gates, hidden = 2 if direction == "bidirectional" else 1, GATES[op], 32
    model = recurrent(op, direction, hidden)
    sizes = [6, 5] if not layout else [5, 6]
    for i, size in enumerate(sizes):
        model.graph.input[0].type.tensor_type.shape.dim[i].dim_value = size
    model.graph.node[0].attribute.append(helper.make_attribute("layout", layout))
    del model.graph.output[:], model.graph.node[0].output[1:]
    model.graph.output.append(helper.make_empty_tensor_value_info("y"))
    counted = figures(onnx_io.load(model))
    assert counted.macs == 6 * 5 * ways * gates * hidden * (24 + hidden)
    assert counted.macs_by_size == {"": counted.macs}


def test_open_lengths_and_batches_are_factors():
    model = recurrent("GRU")
    for i, name in enumerate("TN"):
        model.graph.input[0].type.tensor_type.shape.dim[i].dim_param = name
    del model.graph.output[:]
    model.graph.output.append(helper.make_empty_tensor_value_info("y"))
    assert figures(onnx_io.load(model)).macs_by_size == {"N·T": 2 * 3 * 32 * (24 + 32)}


@pytest.mark.parametrize("mode, op, target", [("weights", "GRU", "portable"), ("dynamic", "LSTM", "onnxruntime")])
def test_the_share_on_integers_counts_recurrent_layers(mode, op, target):
    """With one product behind it, left float: the layer's share is its own multiply-accumulates over all."""
    model = recurrent(op)
    head = numpy_helper.from_array(np.random.default_rng(1).standard_normal((32, 48)).astype(np.float32), "head")
    model.graph.initializer.append(head)
    model.graph.node.append(helper.make_node("MatMul", ["y", "head"], ["z"], name="head"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_empty_tensor_value_info("z"))
    made = quantized(model, mode, target, nodes_to_exclude=("head",))
    layer, product = 6 * 2 * GATES[op] * 32 * (24 + 32), 6 * 2 * 32 * 48
    assert made.report.stages[0].figures["share_of_macs"] == pytest.approx(layer / (layer + product))
    assert made.report.before.macs == made.report.after.macs == layer + product
