"""Half precision through `graphopt.optimize`: what becomes float16, what stays, and why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

import graphopt
from graphopt import onnx_io
from graphopt.equivalence.runnable import open_runnable
from graphopt.errors import ModelError, OptionError
from graphopt.measure import ort_session
from graphopt.passes.float16.assign import assign, candidates
from graphopt.passes.float16.constants import MASK
from graphopt.passes.float16.emit import build, rounded
from graphopt.testing import random_graph
from models import fashion

FASHION = fashion.FOLDER / "fashion_cnn.onnx"


def model(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    """A model from ONNX's textual form, opset 17, with constants by name."""
    proto = parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in constants.items())
    return proto


def half(proto: onnx.ModelProto, data: object = "synthetic", **options: object) -> graphopt.Result:
    return graphopt.optimize(proto, precision=graphopt.Float16(**options), calibration=data)


def types(result: graphopt.Result) -> dict[str, str]:
    """The element type of each operator's first result, by operator."""
    return {n.op: str(n.output.type).partition("[")[0] for n in result.ir.graph if n.op != "Cast"}


def same(result: graphopt.Result, proto: onnx.ModelProto, feeds: dict[str, np.ndarray], decibels: float = 45) -> None:
    """The result computes what the model does, up to half precision."""
    onnx.checker.check_model(result.model, full_check=True)
    ours, theirs = ort_session(result.model.SerializeToString()), ort_session(proto.SerializeToString())
    for a, b in zip(ours.run(None, feeds), theirs.run(None, feeds), strict=True):
        assert np.isfinite(a).all()
        noise = ((a.astype(np.float64) - b) ** 2).sum()
        assert noise <= (b.astype(np.float64) ** 2).sum() * 10 ** (-decibels / 10)


RNG = np.random.default_rng(0)
NET = "g (float[N,8] x) => (float[N,4] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
WEIGHTS = {"w": RNG.normal(size=(8, 64)).astype("f4"), "v": RNG.normal(size=(64, 4)).astype("f4")}


def test_all_between_two_casts():
    proto = model(NET, **WEIGHTS)
    result = half(proto)
    assert types(result) == {"MatMul": "f16", "Relu": "f16"}
    assert [n.op for n in result.ir.graph] == ["Cast", "MatMul", "Relu", "MatMul", "Cast"]
    assert [i.type.tensor_type.elem_type for i in (*result.model.graph.input, *result.model.graph.output)] == [1, 1]
    same(result, proto, {"x": RNG.normal(size=(3, 8)).astype("f4")})


def test_inputs_and_results_too():
    result = half(model(NET, **WEIGHTS), keep_io=False)
    assert [n.op for n in result.ir.graph] == ["MatMul", "Relu", "MatMul"]
    assert [i.type.tensor_type.elem_type for i in (*result.model.graph.input, *result.model.graph.output)] == [10, 10]
    (y,) = ort_session(result.model.SerializeToString()).run(None, {"x": np.ones((2, 8), np.float16)})
    assert y.dtype == np.float16


def test_storage_computes_in_float32():
    proto = model(NET, **WEIGHTS)
    result = half(proto, storage=True)
    assert types(result) == {"MatMul": "f32", "Relu": "f32"}
    stored = {i.data_type for i in result.model.graph.initializer if len(i.dims) == 2}
    assert stored == {onnx.TensorProto.FLOAT16}
    same(result, proto, {"x": RNG.normal(size=(3, 8)).astype("f4")}, 65)


def test_values_beyond_the_format_stay():
    proto = model(
        "g (float[N,8] x) => (float[N,64] y) { h = MatMul(x, w) s = Mul(h, h) t = Mul(s, s) q = Sqrt(t) "
        "m = ReduceMean<axes=[1]>(q) y = Div(h, m) }",
        w=100 * WEIGHTS["w"],
    )
    feeds = {"x": RNG.normal(size=(4, 8)).astype("f4")}
    result = half(proto, [feeds])
    assert types(result)["MatMul"] == "f16"
    reasons = dict(result.report.stages[0].refused)
    assert any("float16 ends at 65504" in why for why in reasons.values()), reasons
    same(result, proto, feeds)


def test_an_epsilon_that_would_vanish_stays():
    proto = model(
        "g (float[N,8] x) => (float[N,64] y) { h = MatMul(x, w) e = Add(h, eps) y = Exp(e) }",
        w=WEIGHTS["w"], eps=np.float32(1e-12),
    )  # fmt: skip
    made = onnx_io.load(proto)
    kept = candidates(made).kept
    assert [(n.op, why) for n, why in kept.items()] == [("Add", "a constant of 1e-12 is too small for float16")]


LARGEST = np.finfo(np.float32).max
ATTENTION = (
    "g (float[2,4,8] x, bool[2,1,4] m) => (float[2,4,8] y) { t = Transpose<perm=[0,2,1]>(x) s = MatMul(x, t) "
    "b = Where(m, zero, low) a = Add(s, b) p = Softmax<axis=-1>(a) o = MatMul(p, x) y = MatMul(o, w) }"
)


def masked(rows: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Attention with a mask of the largest float32, and feeds; `rows`: the samples with something to read."""
    proto = model(ATTENTION, zero=np.float32(0), low=np.float32(-LARGEST), w=WEIGHTS["w"][:, :8].copy())
    mask = np.ones((2, 1, 4), bool)
    mask[0, 0, 2:] = False
    mask[rows:] = False
    return proto, {"x": RNG.normal(size=(2, 4, 8)).astype("f4"), "m": mask}


def test_masks_beyond_the_format_mask():
    proto, feeds = masked(2)
    result = half(proto, [feeds])
    assert set(types(result).values()) == {"f16"}
    constants = [v.constant.array() for n in result.ir.graph for v in n.inputs if v is not None and v.constant]
    assert any(array.dtype == np.float16 and array.min(initial=0) == MASK for array in constants)
    same(result, proto, feeds)


def test_rows_that_are_masked_throughout_keep_their_masks():
    """Without anything to read all positions count alike: beside the largest float32 scores vanish."""
    proto, feeds = masked(1)
    result = half(proto, [feeds])
    kept = types(result)
    assert (kept["Add"], kept["Transpose"]) == ("f32", "f16")
    same(result, proto, feeds)


def test_whole_numbers_stay():
    proto = model(
        "g (float[N,8] x, float[1] k) => (float[N,64] y, int64[1] i) { h = MatMul(x, w) y = Relu(h) "
        "d = Mul(k, three) f = Add(d, three) i = Cast<to=7>(f) }",
        w=WEIGHTS["w"], three=np.array([3], "f4"),
    )  # fmt: skip
    kept = {n.op: why for n, why in candidates(onnx_io.load(proto)).kept.items()}
    assert set(kept) == {"Mul", "Add", "Cast"} and "whole numbers" in kept["Mul"]
    result = half(proto)
    _, index = ort_session(result.model.SerializeToString()).run(
        None, {"x": np.zeros((1, 8), "f4"), "k": np.array([2001], "f4")}
    )
    assert index.tolist() == [6006]


def test_what_loses_most_stays():
    """x − mean(x) of values near 1000 loses their differences; the product before it does not."""
    proto = model(
        "g (float[N,8] x) => (float[N,4] y) { s = MatMul(x, w) h = Add(s, big) m = ReduceMean<axes=[1]>(h) "
        "d = Sub(h, m) y = MatMul(d, v) }",
        big=np.float32(3000), **WEIGHTS,
    )  # fmt: skip
    feeds = [{"x": RNG.normal(size=(16, 8)).astype("f4")} for _ in range(3)]
    result = half(proto, feeds, min_sqnr=50.0)
    stage = result.report.stages[0]
    assert stage.changed and stage.refused
    for feed in feeds:
        same(result, proto, feed, 50)


def test_nested_graphs_convert_inside():
    proto = model(
        "g (float[2,8] x, bool c) => (float[2,64] y) { h = MatMul(x, w) y = If (c) <"
        "then_branch = a () => (float[2,64] p) { p = Relu(h) }, "
        "else_branch = b () => (float[2,64] q) { e = MatMul(x, w2) q = Tanh(e) }> }",
        w=WEIGHTS["w"], w2=WEIGHTS["w"][::-1].copy(),
    )  # fmt: skip
    result = half(proto)
    x = RNG.normal(size=(2, 8)).astype("f4")
    for c in (True, False):
        same(result, proto, {"x": x, "c": np.array(c)})
    weights = {i.data_type for i in result.model.graph.initializer}
    nested = [a.g for n in result.model.graph.node for a in n.attribute if a.HasField("g")]
    assert weights | {i.data_type for g in nested for i in g.initializer} == {onnx.TensorProto.FLOAT16}


def test_the_classifier_keeps_its_classes():
    with np.load(fashion.FOLDER / "fashion_calibration.npz") as archive:
        data = {"image": archive["image"][:64]}
    result = graphopt.optimize(FASHION, precision="float16", calibration=data)
    stage = result.report.stages[0]
    assert (stage.facts.half, stage.facts.casts) == (stage.facts.nodes, 2)
    assert len(result.model.SerializeToString()) < 0.52 * FASHION.stat().st_size
    assert result.report.fidelity.sqnr_db > 55 and result.report.fidelity.top1 == 1.0


def test_a_metric_judges():
    scores = iter((0.9, 0.5, *(0.1,) * 50))
    result = graphopt.optimize(
        model(NET, **WEIGHTS), precision="float16", calibration="synthetic", metric=lambda s: next(scores), max_drop=0.1
    )
    assert not result.report.stages[0].changed and "0.1 is allowed" in result.report.stages[0].summary


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_load_and_compute_the_rounded_model(seed):
    """What is written is valid, loads, and computes what float32 with rounded values computes."""
    proto = random_graph(seed)
    made = onnx_io.load(proto)
    is_complete = _is_complete(proto)
    given = candidates(made)
    optimize = _loads_optimized(proto)  # onnxruntime's own optimizations break some of these graphs
    for keep_io in (True, False):
        chosen = assign(made, given, keep_io)
        written = onnx_io.to_proto(build(made, given, chosen, keep_io))
        assert _is_complete(written) or not is_complete
        open_runnable(written).session(optimize=optimize, strict=True)
    simulated = onnx_io.to_proto(rounded(made, given, chosen))
    open_runnable(simulated).session(optimize=optimize, strict=True)


def _loads_optimized(proto: onnx.ModelProto) -> bool:
    try:
        open_runnable(proto).session(optimize=True, strict=True)
    except ModelError:
        return False
    return True


def _is_complete(proto: onnx.ModelProto) -> bool:
    """The model passes ONNX's full check: some random graphs leave out types that only onnxruntime finds."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


@pytest.mark.parametrize(
    "perm, shape", [("1, 0, 2", "2,5,8"), ("1, 2, 0", "8,2,5"), ("1, 2, 0, 3", "2,3,5,8"), ("1, 2, 3, 0", "8,2,3,5")]
)
def test_a_transpose_that_onnxruntime_joins_with_a_product_stays(perm, shape):
    """In float16 its session ended the process with a segmentation fault; time-first attention has such products."""
    proto = model(f"g (float[{shape}] x) => (float[a,b,c{',d' * (perm.count(',') - 2)}] y)"
                  f"{{ r = Relu(x) t = Transpose<perm = [{perm}]>(r) y = MatMul(t, w) }}", w=WEIGHTS["w"])  # fmt: skip
    result = half(proto)
    assert types(result)["Transpose"] == "f32" and types(result)["MatMul"] == "f16"
    same(result, proto, {"x": RNG.normal(size=[int(n) for n in shape.split(",")]).astype("f4")})


@pytest.mark.parametrize("op, more", [("ScatterElements", ""), ("ScatterND", ""), ("ScatterElements", "none")])
def test_scatters_that_onnxruntime_does_not_reduce_in_float16_stay(op, more):
    """It loads them, and fails when they run: the whole model stayed float32 for one of them."""
    indices = "int64[4,8] i = {0,1,2,0,1,2,0,1,1,0,2,0,1,2,0,1,2,1,0,0,1,2,0,1,0,1,2,0,1,2,0,1}"
    if op == "ScatterND":
        indices = "int64[4,1] i = {0,1,1,3}"
    proto = model(f"g (float[4,8] x) => (float[4,8] y) <{indices}>"
                  f"{{ m = MatMul(x, w) s = {op}<reduction = \"{more or 'add'}\">(m, i, m) y = MatMul(s, w) }}",
                  w=WEIGHTS["w"][:8, :8])  # fmt: skip
    result = half(proto)
    assert types(result)[op] == ("f16" if more else "f32") and types(result)["MatMul"] == "f16"
    same(result, proto, {"x": RNG.normal(size=(4, 8)).astype("f4")})


def test_what_is_not_worth_its_casts_stays():
    result = half(model("g (float[N,8] x) => (float[N,8] y) { y = Relu(x) }"))
    assert types(result) == {"Relu": "f32"}
    assert "left float32: no operator of it is worth the Casts around it" in str(result.report)


def test_inputs_with_defaults_need_no_feed():
    """Their range was looked up in samples, which do not feed them: KeyError."""
    proto = model("g (float[N,8] x, float[8] a) => (float[N,64] y) { h = Add(x, a) y = MatMul(h, w) }", w=WEIGHTS["w"],
                  a=np.arange(8, dtype="f4"))  # fmt: skip
    result = half(proto)
    assert types(result)["MatMul"] == "f16"
    x = RNG.normal(size=(3, 8)).astype("f4")
    same(result, proto, {"x": x})
    same(result, proto, {"x": x, "a": x[0]})


def test_options():
    with pytest.raises(OptionError, match="keep names no node of the model: nothing"):
        half(model(NET, **WEIGHTS), keep=("nothing",))
    with pytest.raises(OptionError, match="not both"):
        graphopt.optimize(FASHION, precision="float16", quantize="dynamic")
    with pytest.raises(OptionError, match="does not convert to bf16"):
        graphopt.optimize(FASHION, precision="bf16")
    with pytest.raises(OptionError, match="did you mean"):
        graphopt.optimize(FASHION, precision="flaot16")
    with pytest.raises(OptionError, match="no option is named bits"):
        graphopt.optimize(FASHION, precision={"bits": 16})
    with pytest.raises(OptionError, match="precision="):
        graphopt.optimize(FASHION, quantize="fp16")


def test_asked_for_names_stay():
    proto = model(NET, **WEIGHTS)
    for i, node in enumerate(proto.graph.node):
        node.name = f"n{i}"
    result = half(proto, keep=("n2",))
    assert [str(n.output.type)[:3] for n in result.ir.graph if n.op == "MatMul"] == ["f16", "f32"]
    assert dict(result.report.stages[0].refused) == {"n2": "asked for"}
    assert {i.data_type for i in result.model.graph.initializer} == {10}  # its weight is stored in float16 all the same
