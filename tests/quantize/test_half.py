"""Models in half precision quantize like those of float32, and stay in half precision where they stay float."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.equivalence.metrics import sqnr_db
from graphopt.measure import ort_session
from graphopt.passes.quantize.candidates.half import holds_half, widened

RNG = np.random.default_rng(0)
TEXT = """<ir_version: 9, opset_import: ["" : 17]> m
    ({kind}[N,6,32] x, bool[N,1,6] keep, int64[1] rows) => ({kind}[N,6,32] y)
    < {kind}[32,96] a, {kind}[96] b, {kind}[32,32] c, {kind} least, {kind} scale, {kind}[320] table >
    {{ h = MatMul(x, a)
      i = Add(h, b)
      q, k, v = Split <axis = 2> (i)
      t = Transpose <perm = [0, 2, 1]> (k)
      l = MatMul(q, t)
      s = Mul(l, scale)
      m = Where(keep, s, least)
      p = Softmax(m)
      w = MatMul(p, v)
      o = MatMul(w, c)
      g = Gather(table, rows)
      y = Add(o, g) }}"""


def weights() -> dict[str, np.ndarray]:
    return {
        "a": RNG.standard_normal((32, 96)) / 6, "b": RNG.standard_normal(96), "c": RNG.standard_normal((32, 32)) / 6,
        "least": np.array(-65504.0), "scale": np.array(0.2), "table": RNG.standard_normal(320),
    }  # fmt: skip


def model(kind: str, arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT.format(kind=kind))
    dtype = np.float16 if kind == "float16" else np.float32
    stored = {name: array.astype(dtype) for name, array in arrays.items()}
    return with_weights(proto, **stored)


def with_weights(proto: onnx.ModelProto, **arrays: np.ndarray) -> onnx.ModelProto:
    del proto.graph.value_info[:]
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return proto


def feeds(dtype: type) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    keep = np.ones((2, 1, 6), bool)
    keep[1, 0, 4:] = False
    rows = np.array([5], np.int64)
    return [{"x": rng.standard_normal((2, 6, 32)).astype(dtype), "keep": keep, "rows": rows} for _ in range(4)]


@pytest.mark.parametrize("target", ["portable", "onnxruntime"])
@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
def test_as_accurate_as_float32(mode, target):
    arrays = weights()
    exact = ort_session(model("float", arrays).SerializeToString()).run(None, feeds(np.float32)[0])[0]
    found = {}
    for kind, dtype in (("float", np.float32), ("float16", np.float16)):
        result = graphopt.optimize(
            model(kind, arrays), quantize=graphopt.Quantize(mode=mode, speed=False), calibration=feeds(dtype),
            target=target,
        )  # fmt: skip
        (stage,) = result.report.stages
        assert stage.changed and stage.figures["share_of_macs"] > 0.5
        (output,) = ort_session(result.model.SerializeToString()).run(None, feeds(dtype)[0])
        assert output.dtype == dtype
        found[kind] = sqnr_db(exact, output)
    assert found["float16"] > found["float"] - 3.0


def test_what_stays_float_stays_in_half_precision():
    original = model("float16", weights())
    result = graphopt.optimize(original, quantize=graphopt.Quantize(mode="weights", speed=False))
    kept = [t for t in result.model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert [list(t.dims) for t in kept if np.prod(t.dims) > 256] == [[320]]
    assert result.model.ByteSize() < original.ByteSize()


def test_masks_keep_their_meaning():
    """−65504 would be a number like others in float32: what masks in float16 is the lowest number there."""
    wide, halves = widened(onnx_io.load(model("float16", weights())))
    assert holds_half(onnx_io.load(model("float16", weights())))
    constants = {v.name: v.constant.array() for n in wide.graph for v in n.inputs if v is not None and v.constant}
    assert constants["least"] == np.finfo(np.float32).min and constants["least"].dtype == np.float32
    assert len(halves) == 6


def test_weights_stored_in_half_precision_behind_a_cast_are_found():
    proto = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 17]> m (float[N,64] x) => (float[N,48] y)
        <float16[64,48] a> { w = Cast <to = 1> (a)
          y = MatMul(x, w) }""")
    array = RNG.standard_normal((64, 48)).astype(np.float16)
    result = graphopt.optimize(with_weights(proto, a=array), quantize=graphopt.Quantize(mode="weights", speed=False))
    assert result.report.stages[0].changed
    assert any(t.data_type == onnx.TensorProto.INT8 for t in result.model.graph.initializer)


def test_bfloat16_is_widened_bit_for_bit():
    proto = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 17]> m (float[N,4] x) => (float[N,3] y)
        <bfloat16[4,3] a> { h = Cast <to = 16> (x)
          p = MatMul(h, a)
          y = Cast <to = 1> (p) }""")
    array = RNG.standard_normal((4, 3)).astype(ml_dtypes.bfloat16)
    tensor = onnx.helper.make_tensor("a", onnx.TensorProto.BFLOAT16, array.shape, array.tobytes(), raw=True)
    del proto.graph.value_info[:]
    proto.graph.initializer.append(tensor)
    wide, _ = widened(onnx_io.load(proto))
    assert not holds_half(wide) and "MatMul" in [node.op for node in wide.graph]
    x = RNG.standard_normal((2, 4)).astype(np.float32)
    (y,) = ort_session(onnx_io.to_proto(wide).SerializeToString()).run(None, {"x": x})
    assert np.allclose(y, x @ array.astype(np.float32), atol=1e-6)
