"""Dynamic quantization and stored weights: the forms that onnxruntime fuses, and what they cost."""

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.kernels.core.levels import LEVELS
from graphopt.measure import Timing, ort_session
from graphopt.passes.quantize import decide
from graphopt.passes.quantize.numerics import solve
from graphopt.passes.quantize.place import latency_guard
from graphopt.passes.quantize.place.latency_guard import TimedAssignment
from tests.quantize.nets import parse

TABLE, WIDE = 400, 64


def words(opset=17, transposed=False):
    """A table, a product with a bias of its own and a Gemm, as a text classifier has them."""
    gemm, shape = ("Gemm<transB=1>", f"10,{WIDE}") if transposed else ("Gemm", f"{WIDE},10")
    return parse(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        net (int64[N,S] ids) => (float[N,10] y)
        <float[{TABLE},{WIDE}] table, float[{WIDE},{WIDE}] w1, float[{WIDE}] b1, float[{shape}] w2, float[10] b2>
        {{
            e = Gather(table, ids)
            h = MatMul(e, w1)
            a = Add(h, b1)
            t = Tanh(a)
            g = ReduceMean<axes=[1], keepdims=0>(t)
            y = {gemm}(g, w2, b2)
        }}""",
        table=np.random.default_rng(1).standard_normal((TABLE, WIDE)),
    )


def feeds(count=12):
    rng = np.random.default_rng(3)
    return [{"ids": rng.integers(0, TABLE, (2, int(rng.integers(4, 9))))} for _ in range(count)]


def run(mode, model=None, **options):
    settings = {"speed": False, "min_sqnr": 5.0, "min_top1": 0.0, **options}
    given = model or words()
    made = graphopt.optimize(given, quantize=graphopt.Quantize(mode=mode, **settings), calibration=feeds())
    sessions = [ort_session(m.SerializeToString()) for m in (given, made.model)]
    a, b = (np.concatenate([s.run(None, f)[0] for f in feeds()]) for s in sessions)
    return made, 10 * np.log10((a**2).sum() / (((a - b) ** 2).sum() + 1e-30))


def ops(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("transposed", [False, True])
def test_dynamic_form(transposed, tmp_path):
    import onnxruntime as ort

    made, noise = run("dynamic", words(transposed=transposed), min_sqnr=-np.inf)
    assert noise > 30
    worst = [(row[1], row[7]) for row in made.report.stages[0].rows]
    assert all(pair > 240 if op == "Gather" else pair <= 128 for op, pair in worst)  # tables are read as floats
    product = ["DynamicQuantizeLinear", "MatMulInteger", "Mul", "Cast", "Mul", "Add"]
    assert ops(made.model) == ["Gather", "DequantizeLinear", *product, "Tanh", "ReduceMean", *product]
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "o.onnx"), 4
    ort.InferenceSession(made.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert ops(onnx.load(tmp_path / "o.onnx")).count("DynamicQuantizeMatMul") == 2


def test_dynamic_codes_have_full_range_where_this_processor_is_exact(monkeypatch):
    worst, certificates = {}, {}
    for level, target in (("avx512vnni", "onnxruntime"), ("avx2", "onnxruntime"), ("avx512vnni", "portable")):
        known = next(known for known in LEVELS if known.name == level)
        monkeypatch.setattr(solve, "select_level", lambda known=known: known)
        options = graphopt.Quantize("dynamic", speed=False, min_sqnr=5, min_top1=0, rounding=False, correct_bias=False)
        made = graphopt.optimize(words(), quantize=options, calibration=feeds(), target=target)
        stage = made.report.stages[0]
        certificates[level, target] = {str(row[8]) for row in stage.rows if row[1] != "Gather"}
        worst[level, target] = max(row[7] for row in stage.rows if row[1] != "Gather")
        assert stage.figures["pair_safe"]
    exact, safe = ("avx512vnni", "onnxruntime"), [("avx2", "onnxruntime"), ("avx512vnni", "portable")]
    assert worst[exact] > 128 >= max(worst[case] for case in safe)
    assert any("VNNI" in text for text in certificates[exact])
    assert not any("VNNI" in text for case in safe for text in certificates[case])


def test_products_of_one_input_share_its_quantization():
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N,16] x) => (float[N,8] a, float[N,8] b) <float[16,8] w1, float[16,8] w2>
        { a = MatMul(x, w1)  b = MatMul(x, w2) }"""
    )
    data = [{"x": np.random.default_rng(i).standard_normal((2, 16)).astype("f4")} for i in range(4)]
    made = graphopt.optimize(
        model, quantize=graphopt.Quantize(mode="dynamic", speed=False, min_top1=0), calibration=data
    )
    assert ops(made.model).count("DynamicQuantizeLinear") == 1 and ops(made.model).count("MatMulInteger") == 2


def test_stored_weights():
    made, noise = run("weights")
    assert noise > 35
    assert made.model.opset_import[0].version == 17  # bytes need no later one
    assert made.report.after.file_bytes < 0.35 * made.report.before.file_bytes
    large = [t for t in made.model.graph.initializer if np.prod(t.dims) > 600]
    assert {t.data_type for t in large} == {onnx.TensorProto.INT8}


def test_the_floor_gives_layers_finer_codes():
    made, noise = run("weights", weight_type="int4", min_sqnr=30.0)
    assert noise > 28
    assert 8 in {row[3] for row in made.report.stages[0].rows if row[1] != "Gather"}


@pytest.mark.parametrize("gain", [0.9, 1.5])
def test_speed_decides_of_products_on_integers(gain, monkeypatch):
    monkeypatch.setattr(decide, "fastest", lambda model, given, feed, target: (
        TimedAssignment(given[0], gain) if given and gain > 1 else TimedAssignment(None, 1.0)
    ))  # fmt: skip
    stage = run("dynamic", speed=True)[0].report.stages[0]
    assert stage.changed == (gain > 1) and stage.figures["speed"] == max(gain, 1.0)


@pytest.mark.parametrize("gain", [0.6, 1.5])
def test_stored_weights_are_for_size_and_slower_ones_are_told(gain, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))

    def timings(sessions, feed, seconds, attempts):
        return [Timing(label, 1e-3, 1e-3, gain, 20, 0.0) for label in sessions if label != "float"]

    monkeypatch.setattr(latency_guard, "stable_timings", timings)
    made, _ = run("weights", speed=True)
    stage, [free] = made.report.stages[0], run("weights", speed=False)[0].report.stages
    assert stage.changed and [row[2] for row in stage.rows] == ["int8"] * 3 == [row[2] for row in free.rows]
    assert stage.figures["speed"] == gain and made.report.after.file_bytes < 0.35 * made.report.before.file_bytes
    assert ("slower than float here (0.60×)" in stage.summary) == (gain < 1)
    assert ("slower than float here" in caplog.text) == (gain < 1)


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
def test_u8_weights_are_stored_as_such(mode):
    made, noise = run(mode, weight_type="uint8", min_sqnr=-np.inf)
    stored = [onnx.numpy_helper.to_array(t) for t in made.model.graph.initializer]
    kinds = {a.shape: a.dtype for a in stored if a.ndim > 1}
    assert kinds == {(64, 10): np.uint8, (64, 64): np.uint8, (TABLE, WIDE): np.int8}  # a table meets no product itself
    assert noise > 30


@pytest.mark.parametrize("shape, fits", [("6", 1), ("1,6", 1), ("1", 1), ("1,1", 1), ("6,1", 0), ("6,6", 0)])
@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
def test_only_a_bias_of_one_number_a_channel_is_taken_for_one(mode, shape, fits):
    """Of as many rows as columns, a column has the right size and the wrong sense."""
    sizes = [int(size) for size in shape.split(",")]
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (float[6,12] x) => (float[6,6] y)
        <float[12,6] w, float[{shape}] c> {{ y = Gemm(x, w, c) }}""",
        c=np.arange(np.prod(sizes)).reshape(sizes),
    )
    data = [{"x": np.random.default_rng(i).standard_normal((6, 12)).astype(np.float32)} for i in range(4)]
    options = graphopt.Quantize(mode=mode, speed=False, min_sqnr=-np.inf, min_top1=0)
    made = graphopt.optimize(model, quantize=options, calibration=data)
    assert (made.report.status == "lossy") == bool(fits)
    refused = () if fits else (("y", "its bias is not one number a channel"),)
    assert made.report.stages[0].refused == refused
    assert (made.report.stages[0].figures or {}).get("layers", 0) == fits
    a, b = (ort_session(m.SerializeToString()).run(None, data[0])[0] for m in (model, made.model))
    assert ((a - b) ** 2).sum() < 1e-3 * (a**2).sum()


def test_convolutions_that_a_mode_leaves_alone_are_told():
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N,4,8,8] x) => (float[N,3,6,6] y, float[N,2,10,10] z)
        <float[3,4,3,3] w, float[4,2,3,3] v> { y = Conv(x, w) z = ConvTranspose(x, v) }"""
    )
    data = [{"x": np.random.default_rng(i).standard_normal((1, 4, 8, 8)).astype(np.float32)} for i in range(4)]
    made = graphopt.optimize(model, quantize="dynamic", calibration=data)
    assert dict(made.report.stages[0].refused) == {
        "y": "onnxruntime is slow at convolutions quantized while they run",
        "z": "a transposed convolution",
    }
    assert made.report.stages[0].summary == (
        "left float: mode dynamic takes matrix products (MatMul, Gemm) with constant weights, and the model has none "
        "that it can quantize; convolutions need mode static (calibration data, for speed) or weights (for a smaller "
        "file)"
    )


@pytest.mark.parametrize(
    "mode, taken",
    [("static", "convolutions and matrix products"), ("dynamic", "matrix products (MatMul, Gemm)"),
     ("weights", "convolutions and matrix products")],
)  # fmt: skip
def test_a_model_without_layers_is_told_what_the_mode_takes(mode, taken):
    model = parse("""<ir_version: 8, opset_import: ["" : 17]> net (float[N,4] x) => (float[N,4] y) { y = Tanh(x) }""")
    data = [{"x": np.random.default_rng(i).standard_normal((2, 4)).astype(np.float32)} for i in range(2)]
    made = graphopt.optimize(model, quantize=mode, calibration=data)
    told = f"mode {mode} takes {taken} with constant weights, and the model has none that it can quantize"
    assert made.report.stages[0].summary == f"left float: {told}"


@pytest.mark.parametrize("mode", ["static", "weights"])
def test_a_layer_of_very_many_inputs_is_rounded_to_the_nearest(mode):
    """What rounding by the data needs to know of 60,000 inputs takes 14 GB."""
    import tracemalloc

    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N,60000] x) => (float[N,3] y)
        <float[60000,16] w, float[16] b, float[16,3] v> { h = MatMul(x, w) a = Add(h, b) r = Relu(a)
          y = MatMul(r, v) }"""
    )
    data = [{"x": np.random.default_rng(i).standard_normal((1, 60000)).astype(np.float32)} for i in range(4)]
    options = graphopt.Quantize(mode=mode, speed=False, min_sqnr=20, min_top1=0)
    tracemalloc.start()
    made = graphopt.optimize(model, quantize=options, calibration=data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e8
    wide, narrow = (row[4:6] for row in made.report.stages[0].rows)
    assert wide == (None, None) and None not in narrow and made.report.stages[0].figures["share_of_macs"] == 1.0
