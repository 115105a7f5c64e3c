"""Static quantization: where pairs go, what the integers are, and the guards."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt import onnx_io
from graphopt.measure import ort_session
from tests.quantize.nets import convnet, images, parse

FEEDS = images(16)


def quantized(model=None, feeds=FEEDS, **options):
    settings = {"speed": False, "min_sqnr": 10.0, "min_top1": 0.0, **options}
    return graphopt.optimize(model or convnet(), quantize=graphopt.Quantize(**settings), calibration=feeds)


def ops(model):
    return [node.op_type for node in model.graph.node if node.op_type != "DequantizeLinear"]


def test_integer_regions_are_contiguous():
    made = quantized(equalize=False)
    assert ops(made.model) == [
        "QuantizeLinear",  # the input
        "Conv", "QuantizeLinear",  # Relu went into the codes' lower end
        "Conv", "QuantizeLinear",
        "Add", "QuantizeLinear",
        "MaxPool", "QuantizeLinear",
        "Conv", "QuantizeLinear",
        "Conv", "QuantizeLinear",
        "Concat", "QuantizeLinear",
        "GlobalAveragePool", "QuantizeLinear",
        "Flatten", "QuantizeLinear",
        "Gemm",  # the last product gives floats
    ]  # fmt: skip
    onnx.checker.check_model(made.model, full_check=True)


def test_onnxruntime_runs_all_of_it_on_integers(tmp_path):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(quantized().model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ran = {node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node}
    assert ran <= {
        "QuantizeLinear", "Transpose", "QLinearConv", "NhwcMaxPool", "MaxPool", "QLinearAdd", "QLinearConcat",
        "QLinearGlobalAveragePool", "Flatten", "QGemm",
    }  # fmt: skip


def test_results_stay_and_the_report_tells_by_how_much():
    made = quantized()
    stage = made.report.stages[0]
    assert made.report.status == "lossy"
    reference, result = (
        np.concatenate([ort_session(m.SerializeToString()).run(None, f)[0] for f in FEEDS])
        for m in (convnet(), made.model)
    )
    noise = 10 * np.log10((reference**2).sum() / ((reference - result) ** 2).sum())
    assert noise > 30
    assert stage.figures["share_of_macs"] == 1.0 and stage.figures["pair_safe"] is True
    assert stage.figures["objective_after"] < 0.9 * stage.figures["objective_before"]
    assert len(stage.rows) == 5 and all(row[2] == "int8" for row in stage.rows)


def test_the_same_input_gives_the_same_bytes():
    assert quantized().model.SerializeToString() == quantized().model.SerializeToString()


def test_weights_are_pair_safe_unless_the_target_is_exact():
    def worst(model):
        found = []
        for tensor in model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.int8 and array.ndim == 4 and array.shape[1] > 1:
                rows = np.sort(array.reshape(len(array), -1).astype(int), axis=1)
                found.append(max(rows[:, -2:].sum(axis=1).max(), -rows[:, :2].sum(axis=1).min()))
        return max(found)

    assert worst(quantized().model) <= 128
    assert worst(quantized(reduce_range=False).model) > 128
    exact = graphopt.optimize(
        convnet(), quantize=graphopt.Quantize(speed=False, min_sqnr=0, min_top1=0), calibration=FEEDS, target="graphopt"
    )
    assert worst(exact.model) > 128


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("signed", [False, True])
def test_every_method_and_type_works(method, signed):
    made = quantized(calibrate_method=method, activation_type="int8" if signed else "uint8")
    assert made.report.status == "lossy", made.report.stages[0].summary
    wanted = onnx.TensorProto.INT8 if signed else onnx.TensorProto.UINT8
    zeros = [t.data_type for t in made.model.graph.initializer if t.name.startswith("zero_point")]
    assert set(zeros) == {wanted}


def test_what_is_excluded_stays_float():
    model = convnet()
    for i, node in enumerate(model.graph.node):
        node.name = f"node{i}"
    made = quantized(model, nodes_to_exclude=["node0"], op_types_to_quantize=["Conv"])
    kept = [row[0] for row in made.report.stages[0].rows]
    assert kept == ["node2", "node6", "node8"]


def test_old_operator_sets_are_raised():
    model = convnet()
    model.opset_import[0].version = 11
    made = quantized(model)
    assert made.report.status == "lossy" and made.model.opset_import[0].version == 13


def test_a_model_without_weights_is_handed_back():
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,3,16,16] x) => (float[N,3,16,16] y) { y = Relu(x) }"""
    )
    made = quantized(model)
    assert made.report.status == "equal" and not made.report.stages[0].changed


def test_the_metric_decides_how_much_is_taken_back():
    reference = [ort_session(convnet().SerializeToString()).run(None, f)[0] for f in FEEDS]

    def metric(session):
        return -float(np.mean([np.abs(session.run(None, f)[0] - r).mean() for f, r in zip(FEEDS, reference)]))

    def run(max_drop):
        options = graphopt.Quantize("weights", speed=False, weight_type="int4", rounding=False)
        return graphopt.optimize(convnet(), quantize=options, calibration=FEEDS, metric=metric, max_drop=max_drop)

    loose, tight, none = run(10.0), run(0.02), run(0.0)
    bits = [{row[3] for row in made.report.stages[0].rows} for made in (loose, tight)]
    assert bits[0] == {4} and 8 in bits[1]
    assert metric(ort_session(tight.model.SerializeToString())) >= -0.02
    assert none.report.status == "equal" and not none.report.stages[0].changed


def test_never_slower_than_the_original():
    made = graphopt.optimize(convnet(), quantize="static", calibration=FEEDS)
    stage = made.report.stages[0]
    assert stage.figures["speed"] >= 1.0
    assert stage.changed == (stage.figures["speed"] > 1.0)


def test_bad_options_are_told_in_one_line(tmp_path):
    target = tmp_path / "out.onnx"
    for bad in ("int7", 3, {"bits": 4}, {"mode": "static", "calibrate_method": "best"}):
        with pytest.raises(graphopt.OptionError) as error:
            graphopt.optimize(convnet(), target, quantize=bad)
        assert "\n" not in str(error.value) and not target.exists()
    for bad in (
        {"percentile": "x"}, {"block_size": 12}, {"block_size": 32.0}, {"evaluations": 0}, {"samples": 0},
        {"samples": -1}, {"samples": 2.5}, {"min_sqnr": None}, {"min_sqnr": float("nan")}, {"min_top1": 2},
        {"per_channel": "no"}, {"reduce_range": "auto"}, {"nodes_to_exclude": "c1"}, {"nodes_to_exclude": [5]},
        {"op_types_to_quantize": "Conv"}, {"cache": 5}, {"executor": 5}, {"speed": "fast"},
    ):  # fmt: skip
        with pytest.raises(graphopt.OptionError, match=f"^quantize: {next(iter(bad))} ") as error:
            graphopt.Quantize(**bad)
        assert "\n" not in str(error.value)


def test_names_that_no_node_has_are_told():
    """A misspelled one would leave a layer on integers."""
    with pytest.raises(graphopt.OptionError, match=r"names no node of the model: c9$"):
        quantized(nodes_to_exclude=["c1", "c9"])
    made = quantized(nodes_to_exclude=["c1"])
    assert ("c1", "excluded by name") in made.report.stages[0].refused


def _raising(session):
    raise RuntimeError("no\ngrid")


@pytest.mark.parametrize(
    "options, line",
    [
        ({"max_drop": 0.1}, "max_drop= needs metric="),
        ({"metric": 5}, "metric is a function of a session, got int"),
        ({"metric": _raising, "max_drop": 0.1}, "metric: it raised RuntimeError: no grid"),
        ({"metric": lambda s: float("nan"), "max_drop": 0.1}, "metric: expected a number, got nan"),
        ({"metric": lambda s: 1.0, "max_drop": float("nan")}, "max_drop is a number from 0 on, got nan"),
        ({"metric": lambda s: 1.0, "max_drop": -0.1}, "max_drop is a number from 0 on, got -0.1"),
        ({"metric": lambda s: 1.0, "max_drop": "0.1"}, "max_drop is a number from 0 on, got '0.1'"),
    ],
)
def test_a_metric_that_cannot_judge_is_told_in_one_line(options, line, tmp_path):
    with pytest.raises(graphopt.OptionError) as error:
        graphopt.optimize(convnet(), tmp_path / "o.onnx", quantize="static", calibration=FEEDS, **options)
    assert str(error.value) == line and not (tmp_path / "o.onnx").exists()


def test_the_reason_for_what_stays_float_is_the_reports():
    reference = ort_session(convnet().SerializeToString()).run(None, FEEDS[0])[0]

    def metric(session):
        return 0.0 if np.array_equal(session.run(None, FEEDS[0])[0], reference) else -1.0

    made = graphopt.optimize(
        convnet(), quantize=graphopt.Quantize(speed=False), calibration=FEEDS, metric=metric, max_drop=0.5
    )
    assert made.report.status == "equal"
    assert made.report.reason.endswith("no placement meets it, a metric that falls by at most 0.5")


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_u8_weights_are_stored_as_such(form, per_channel):
    """Their certificate rests on it: products of u8 with u8 do not saturate, those of u8 with s8 may."""
    made = quantized(weight_type="uint8", format=form, per_channel=per_channel)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in made.model.graph.initializer}
    weights = [array for array in stored.values() if array.dtype == np.uint8 and array.ndim > 1]
    assert len(weights) == 5 and not any(array.dtype == np.int8 for array in stored.values())
    assert max(int(array.max()) for array in weights) == 255
    zeros = [array for name, array in stored.items() if name.endswith("_zero")]
    assert len(zeros) == 5 and all(np.all(array == 128) for array in zeros)
    assert {row[-1] for row in made.report.stages[0].rows} == {"exact: u8 weights", "exact: no pairs"}
    reference, stock = (ort_session(m.SerializeToString()) for m in (convnet(), made.model))
    session = graphopt.Session(made.model, 1, kernels=True)
    assert session.regions
    for feed in FEEDS[:4]:
        expected = reference.run(None, feed)[0]
        for found in (stock.run(None, feed)[0], session.run(None, feed)[0]):
            assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()


def test_s8_activations_with_u8_weights_are_refused():
    with pytest.raises(graphopt.OptionError, match="int8 for both"):
        graphopt.Quantize(activation_type="int8", weight_type="uint8")
    graphopt.Quantize(mode="dynamic", activation_type="int8", weight_type="uint8")


def test_calibration_that_fails_writes_nothing(tmp_path):
    target = tmp_path / "out.onnx"
    target.write_bytes(b"kept")
    with pytest.raises(graphopt.InputError):
        graphopt.optimize(convnet(), target, quantize="static", calibration=[{"wrong": FEEDS[0]["x"]}])
    assert target.read_bytes() == b"kept"


def test_session_runs_the_integers_exactly():
    made = graphopt.optimize(
        convnet(), quantize=graphopt.Quantize(min_sqnr=0, min_top1=0, speed=False), calibration=FEEDS, target="graphopt"
    )
    exact = ort_session(made.model.SerializeToString(), options={"session.x64quantprecision": "1"})
    session = graphopt.Session(made.model, kernels=True)
    assert session.regions
    for feed in FEEDS[:4]:
        a, b = exact.run(None, feed)[0], session.run(None, feed)[0]
        assert np.abs(a - b).max() <= 0.05 * np.abs(a).max()


def test_onnx_io_reads_the_result_back():
    made = quantized()
    lifted = onnx_io.load(made.model)
    assert onnx_io.to_proto(lifted).SerializeToString() == made.model.SerializeToString()


def test_times_are_remembered_so_that_results_repeat():
    runs = [graphopt.optimize(convnet(), quantize="static", calibration=FEEDS) for _ in range(2)]
    assert runs[0].model.SerializeToString() == runs[1].model.SerializeToString()
    assert runs[0].report.stages[0].figures["speed"] == runs[1].report.stages[0].figures["speed"]


def test_samples_may_be_observed_in_parallel():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        assert quantized(executor=pool).model.SerializeToString() == quantized().model.SerializeToString()


def test_openvino_runs_the_result():
    openvino = pytest.importorskip("openvino", reason="openvino comes with the bench extra")
    model = quantized().model
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
    expected = ort_session(model.SerializeToString())
    for feed in FEEDS[:2]:
        ours, theirs = expected.run(None, feed)[0], compiled(feed)[0]
        assert np.abs(ours - theirs).max() <= 0.05 * np.abs(ours).max()


def test_the_command_line_quantizes(tmp_path):
    import json

    from typer.testing import CliRunner

    from graphopt.cli import app

    source, data, out, told = (tmp_path / n for n in ("in.onnx", "c.npz", "out.onnx", "r.json"))
    onnx.save(convnet(), source)
    np.savez(data, x=np.concatenate([f["x"] for f in FEEDS]))
    arguments = [str(source), str(out), "--quantize", "static", "--calibration", str(data), "--report", str(told)]
    done = CliRunner().invoke(app, ["optimize", *arguments])
    assert done.exit_code == 0, done.output
    stage = json.loads(told.read_text())["stages"][0]
    assert stage["name"] == "quantize static" and out.is_file()


def test_auto_takes_the_ranges_that_serve_the_results_best():
    """One sample with an outlier makes min-max ranges useless; methods that cut it off win."""
    feeds = [*images(15), {"x": images(1)[0]["x"] * 1.0}]
    feeds[-1]["x"][0, 0, 0, 0] = 1000.0
    whole = {"min_sqnr": -100.0, "rounding": False}
    kept = {
        method: quantized(feeds=feeds, calibrate_method=method, **whole).report.stages[0]
        for method in ("minmax", "percentile", "entropy", "mse", "auto")
    }
    found = {method: float(stage.summary.rpartition("SQNR ")[2].split()[0]) for method, stage in kept.items()}
    chosen = kept["auto"].figures["calibrate_method"]
    assert found["auto"] == found[chosen] == max(found.values()) > found["minmax"]


def test_means_corrected_layer_by_layer_bring_the_results_closer():
    """Ranges cut to the central 90 % shift the mean of every layer; its bias takes that up."""

    def found(**options):
        settings = {"calibrate_method": "percentile", "percentile": 90.0, "rounding": False, "min_sqnr": -100.0}
        return quantized(**settings, **options)

    plain, corrected = found(), found(correct_means=True)
    ratios = [float(m.report.stages[0].summary.rpartition("SQNR ")[2].split()[0]) for m in (plain, corrected)]
    assert ratios[1] > ratios[0] + 0.5
    assert ops(plain.model) == ops(corrected.model)


@pytest.mark.parametrize("per_channel", [True, False])
def test_biases_too_large_for_the_scales_of_nearest_rounding_widen_them(per_channel):
    """Codes are found before ranges are known; where those do not leave a bias 32 bits, they are found anew."""
    w1 = 1e-5 * np.random.default_rng(0).standard_normal((8, 3, 3, 3))
    net = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[1,3,16,16] x) => (float[1,8,16,16] y) <float[8,3,3,3] w1, float[8] b1>
        { y = Conv<pads=[1,1,1,1]>(x, w1, b1) }""",
        w1=w1, b1=np.array([3e4, 1, 0, 2, 1, 0, 1, -5e4]),
    )  # fmt: skip
    options = graphopt.Quantize(
        rounding=False, correct_bias=False, speed=False, equalize=False, per_channel=per_channel,
        min_sqnr=float("-inf"), min_top1=0,
    )  # fmt: skip
    made = graphopt.optimize(net, quantize=options, calibration=images(4), validate=False).model
    feed = images(1)[0]
    found, expected = (ort_session(m.SerializeToString()).run(None, feed)[0] for m in (made, net))
    assert abs(found - expected).max() <= 1e-2 * abs(expected).max()
    codes = next(numpy_helper.to_array(t) for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT32)
    assert 2**28 < abs(codes.astype(np.int64)).max() <= 2**30
