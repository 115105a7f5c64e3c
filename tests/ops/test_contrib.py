"""Onnxruntime's own operators are lifted, typed, optimised around, validated and quantized beside, never refused."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphopt
from graphopt.ir import DType, TensorType
from graphopt.onnx_io import load
from graphopt.ops import has_contrib_types
from tests.ops import decoders

ROWS = [{"x": np.random.default_rng(n).standard_normal((1, n, 64)).astype(np.float32)} for n in (3, 5)]
STEPS = [decoders.feeds(1, 3, 0), decoders.feeds(1, 1, 5, 1), decoders.feeds(2, 1, 4, 2)]
"""A prompt whose cache is empty, and later steps: samples of different lengths."""
MODELS = {
    "float": (decoders.decoder(), STEPS),
    "packed": (decoders.decoder(packed=True), STEPS),
    "experts": (decoders.experts(), ROWS),
}
NUMPY = {DType.FLOAT: "float32", DType.INT64: "int64", DType.INT32: "int32"}


def results(model, samples):
    session = ort.InferenceSession(model.SerializeToString())
    return [session.run(None, feed) for feed in samples]


@pytest.mark.parametrize("name", MODELS)
def test_types_are_those_that_onnxruntime_gives(name):
    model, samples = MODELS[name]
    lifted = load(model)
    named = {proto.name: proto for proto in model.graph.node}
    contrib = [node for node in lifted.graph if has_contrib_types(node)]
    assert len(contrib) >= 2 and {node.op for node in contrib} <= {node.op for node in lifted.graph}
    assert not [v for node in lifted.graph for v in node.outputs if not isinstance(v.type, TensorType)]
    wanted = [(node, i, out) for node in contrib for i, out in enumerate(named[node.name].output) if out]
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    known = {info.name for info in model.graph.output}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=out) for *_, out in wanted if out not in known)
    session = ort.InferenceSession(tapped.SerializeToString())
    for (node, index, _), array in zip(wanted, session.run([out for *_, out in wanted], samples[-1])):
        type = node.outputs[index].type
        assert NUMPY[type.dtype] == array.dtype.name, node.op
        assert len(type.shape) == array.ndim, node.op
        sizes = [(declared, size) for declared, size in zip(type.shape, array.shape) if isinstance(declared, int)]
        assert sizes and all(declared == size for declared, size in sizes), node.op


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
@pytest.mark.parametrize("name", MODELS)
def test_optimised_equal(name, target):
    model, samples = MODELS[name]
    result = graphopt.optimize(model, target=target)
    assert result.report.status == "equal" and not result.report.rolled_back
    assert result.report.after.nodes <= result.report.before.nodes
    assert graphopt.compare(model, result.model, inputs=samples).status == "equal"


@pytest.mark.parametrize("name", MODELS)
def test_session_equal(name):
    model, samples = MODELS[name]
    session = graphopt.Session(model, threads=1)
    for feed, wanted in zip(samples, results(model, samples)):
        for one, other in zip(session.run(None, feed), wanted):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["weights", "dynamic", "static"])
@pytest.mark.parametrize("name", MODELS)
def test_quantized_beside_them(name, mode):
    model, samples = MODELS[name]
    wish = graphopt.Quantize(mode=mode, speed=False, min_sqnr=10, min_top1=0, evaluations=8)
    result = graphopt.optimize(model, quantize=wish, calibration=samples)
    assert result.report.status in ("lossy", "equal")
    found = results(result.model, samples)
    assert all(np.isfinite(array).all() for run in found for array in run)
    if name == "float" and mode == "weights":
        size, before = len(result.model.SerializeToString()), len(model.SerializeToString())
        assert result.report.status == "lossy" and size < 0.5 * before, "most weights are stored in 8 bits"


def test_an_unknown_operator_of_onnx_is_still_told():
    model = decoders.experts()
    model.graph.node[-1].op_type = "Addd"
    with pytest.raises(graphopt.ModelError, match="has no operator Addd"):
        graphopt.optimize(model)


CODES = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
net (uint8[N,4,6,8] x, uint8[N,1,6,1] c, float[N,3,8] f) => (uint8[N,4,6,8] y)
<float s = {0.1}, uint8 z = {3}> {
    a1 = com.microsoft.QLinearAdd(c, s, z, x, s, z, s, z) a2 = com.microsoft.QLinearMul(x, s, z, c, s, z, s, z)
    u1 = com.microsoft.QLinearSigmoid(a1, s, z, s, z) u2 = com.microsoft.QLinearLeakyRelu(a2, s, z, s, z)
    u3 = com.microsoft.QLinearSoftmax<axis = -1, opset = 17>(a2, s, z, s, z)
    k1 = com.microsoft.QLinearConcat<axis = -3>(s, z, u1, s, z, u2, s, z)
    p1 = com.microsoft.QLinearAveragePool<kernel_shape = [2, 2]>(k1, s, z, s, z)
    p2 = com.microsoft.QLinearGlobalAveragePool(k1, s, z, s, z)
    p3 = com.microsoft.QLinearGlobalAveragePool<channels_last = 1>(k1, s, z, s, z)
    r = Reshape(u3, rows)
    g1 = com.microsoft.QGemm(r, s, z, w, s, z, , s, z) g2 = com.microsoft.QGemm<transB = 1>(r, s, z, t, s, z)
    m1 = com.microsoft.MatMulIntegerToFloat(u3, w, s, s, z, z) m2 = com.microsoft.DynamicQuantizeMatMul(f, w, s, z)
    d = com.microsoft.DequantizeLinear(p2, s, z) e = com.microsoft.QuantizeLinear(d, s, z)
    sizes = Shape(u1) back = Reshape(g1, any) h = Shape(back) y = Reshape(u1, sizes)
}"""


def test_types_of_operators_on_codes_are_those_that_onnxruntime_gives():
    model, rng = onnx.parser.parse_model(CODES), np.random.default_rng(0)
    weights = {"w": rng.integers(0, 9, (8, 5), np.uint8), "t": rng.integers(0, 9, (5, 8), np.uint8)}
    for name, array in {**weights, "rows": np.array([-1, 8]), "any": np.array([-1, 1, 5])}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    types = {v.name: v.type for node in load(model).graph for v in node.outputs}
    made = [out for node in model.graph.node for out in node.output]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name != "y")
    feed = {"x": rng.integers(0, 9, (2, 4, 6, 8), np.uint8), "c": rng.integers(0, 9, (2, 1, 6, 1), np.uint8)}
    session = ort.InferenceSession(model.SerializeToString())
    names = [one.name for one in session.get_outputs()]
    arrays = dict(zip(names, session.run(names, {**feed, "f": rng.standard_normal((2, 3, 8)).astype(np.float32)})))
    for name, array in arrays.items():
        found = types[name]
        assert found.dtype.numpy == array.dtype and found.rank == array.ndim, name
        assert all(a == b for a, b in zip(found.shape, array.shape) if isinstance(a, int)), name
    numbers = {
        "a1": (4, 6, 8),
        "u3": (4, 6, 8),
        "k1": (8, 6, 8),
        "p1": (8,),
        "p2": (8, 1, 1),
        "p3": (1, 1, 8),
        "h": (3,),
    }
    for name, sizes in numbers.items():
        assert tuple(size for size in types[name].shape if isinstance(size, int))[: len(sizes)] == sizes, name
    assert types["g1"].shape[1] == 5 == types["g2"].shape[1] and types["m2"].shape[1:] == (3, 5)
    assert types["a1"].shape[0] == "N"
