"""Types of values: declared, inferred without weights, open, of sequences and maps."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir import DType, SequenceType, TensorType
from graphopt.onnx_io import infer_types, load
from graphopt.onnx_io.emit import Emitter

from .spelled import parse, round_trip


def test_open_sizes_are_not_equal_because_they_look_alike():
    proto = parse("g (float[N, M] x) => (y) { y = Transpose(x) }")
    first, second = proto.graph.input[0].type.tensor_type.shape.dim
    first.dim_param = second.dim_param = "?"
    model, _ = round_trip(proto)
    assert model.graph.inputs[0].type == TensorType(DType.FLOAT, (None, None))
    second.dim_value = -1
    round_trip(proto)


def test_sequences_optionals_and_maps():
    proto = parse("g (seq(float[N]) s, int64 i) => (float[N] y) { y = SequenceAt(s, i) }")
    proto.graph.input.append(
        helper.make_value_info("m", onnx.TypeProto(map_type={"key_type": 7, "value_type": proto.graph.output[0].type}))
    )
    proto.graph.input.append(helper.make_value_info("o", helper.make_optional_type_proto(proto.graph.input[0].type)))
    proto.graph.input.append(helper.make_value_info("p", helper.make_sparse_tensor_type_proto(1, [2])))
    model, _ = round_trip(proto)
    assert model.graph.inputs[0].type == SequenceType(TensorType(DType.FLOAT, ("N",)))
    assert next(iter(model.graph)).output.type == TensorType(DType.FLOAT, ("N",))


def test_declared_types_count_only_where_onnx_knows_nothing():
    proto = parse("g (float[2, 3] x) => (y) { a = own.Op(x) b = Transpose(a) h = Relu(x) y = Exp(h) }",
                  '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>\n')  # fmt: skip
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.INT32, [4, 5]))
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.DOUBLE, [9]))
    model, emitted = round_trip(proto)
    types = {v.name: v.type for n in model.graph for v in n.outputs}
    assert types["a"] == TensorType(DType.INT32, (4, 5)) and types["b"] == TensorType(DType.INT32, (5, 4))
    assert types["h"] == types["y"] == TensorType(DType.FLOAT, (2, 3))
    assert [info.name for info in emitted.graph.value_info] == ["a"]


def test_shapes_flow_through_operators_of_ml_that_onnx_leaves_untyped():
    proto = parse("""g (float[N, 4] x, float[4, 3] w) => (y) {
        s = ai.onnx.ml.Scaler<offset = [1.0], scale = [2.0]>(x) c = Cast<to = 1>(s) m = MatMul(c, w) y = Relu(m)
    }""", '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 1]>\n')  # fmt: skip
    types = [node.output.type for node in load(proto).graph]
    assert types == [TensorType(DType.FLOAT, ("N", size)) for size in (4, 4, 3, 3)]


def test_inference_sees_no_weights():
    weight = numpy_helper.from_array(np.zeros((2000, 500), np.float32), "w")
    proto = parse("g (float[N, 2000] x) => (y) { y = MatMul(x, w) }")
    proto.graph.initializer.append(weight)
    model = load(proto)
    assert next(iter(model.graph)).output.type == TensorType(DType.FLOAT, ("N", 500))
    assert Emitter(model, skeleton=True).model().ByteSize() < 500


def test_shapes_flow_through_small_constants():
    proto = parse("""g (float[2, 4, 6] x) => (y) {
        s = Shape(x) i = Constant<value_ints = [0]>() n = Gather(s, i) m = Constant<value_ints = [-1]>()
        t = Concat<axis = 0>(n, m) y = Reshape(x, t)
    }""")
    model = load(proto)
    assert model.graph.outputs[0].type == TensorType(DType.FLOAT, (2, 24))


def test_a_model_that_inference_refuses_still_gets_types():
    proto = parse("g (float[2] x) => (y, z) { h = Reshape(x, s) y = Relu(x) z = Exp(y) }")
    proto.graph.initializer.append(helper.make_tensor("s", TensorProto.INT64, [2], [0, 0]))
    model = load(proto)
    infer_types(model)
    assert model.graph.outputs[1].type == TensorType(DType.FLOAT, (2,))


def test_sizes_are_followed_through_products_of_stored_weights() -> None:
    """As onnxruntime's own tool leaves decoders: heads are split by sizes that the model computes."""
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    g (int64[batch, seq] ids) => (float[p, q, r, s] y)
    <uint8[50, 32] table, float[50, 2] scales, uint8[64, 2, 16] codes, float[64, 2] steps, float[64] ones,
     int64 zero = {0}, int64 one = {1}, int64[1] first = {0}, int64[2] heads = {4, 16}> {
      e = com.microsoft.GatherBlockQuantized<bits = 4, block_size = 32>(table, ids, scales)
      n = SimplifiedLayerNormalization<axis = -1>(e, ones)
      x = com.microsoft.MatMulNBits<K = 64, N = 64, bits = 4, block_size = 32>(n, codes, steps)
      z = com.microsoft.QuickGelu(x)
      sizes = Shape(z)
      b = Gather(sizes, zero)
      c = Gather(sizes, one)
      b1 = Unsqueeze(b, first)
      c1 = Unsqueeze(c, first)
      to = Concat<axis = 0>(b1, c1, heads)
      h = Reshape(z, to)
      y = Transpose<perm = [0, 2, 1, 3]>(h)
    }"""
    proto = onnx.parser.parse_model(text)
    for name, shape, kind in (
        ("table", (50, 32), np.uint8), ("scales", (50, 2), np.float32), ("codes", (64, 2, 16), np.uint8),
        ("steps", (64, 2), np.float32), ("ones", (64,), np.float32),
    ):  # fmt: skip
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(shape, kind), name))
    graph = load(proto).graph
    assert str(graph.outputs[0].type) == "f32[batch,4,seq,16]"
    assert {v.name for v in graph.inputs} == {"ids"}


BODY = """agraph (h, r) => (n, o) { p = MatMul(r, w) a = Add(p, h) n = Tanh(a) o = Transpose<perm = [1, 0]>(n) }"""
STEP = """agraph (i, c, k) => (d, m) { d = Identity(c) m = Tanh(k) }"""


def bodies(scan: str, loop: str = STEP) -> onnx.ModelProto:
    """A Scan over the middle axis of x and a Loop, whose bodies declare no types."""
    return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[2,8] s, float[2,T,4] x, int64 steps, bool go) => (float[2,8] e, float[T,8,2] y, float[2,8] z)
        <float[4,8] w = {{{", ".join(["0"] * 32)}}}>
        {{ e, y = Scan<num_scan_inputs = 1, scan_input_axes = [1], body = {scan.replace("agraph", "body")}>(s, x)
           z = Loop<body = {loop.replace("agraph", "step")}>(steps, go, s) }}""")


def types_in(model, op: str) -> dict[str, str]:
    (node,) = [node for node in model.graph if node.op == op]
    (body,) = node.subgraphs
    return {v.name: str(v.type) for v in (*body.inputs, *(v for inner in body for v in inner.outputs))}


def test_bodies_take_the_types_of_operands():
    """ONNX's inference types the nodes of a Scan's body, not what it takes, and of a Loop's neither."""
    model = load(bodies(BODY))
    assert types_in(model, "Scan") == {
        "h": "f32[2,8]", "r": "f32[2,4]", "p": "f32[2,8]", "a": "f32[2,8]", "n": "f32[2,8]", "o": "f32[8,2]",
    }  # fmt: skip
    assert types_in(model, "Loop") == {"i": "i64[*]", "c": "b8[*]", "k": "f32[*]", "d": "b8[]", "m": "f32[*]"}


def test_bodies_are_typed_where_onnx_rejects_the_model(monkeypatch):
    def reject(*_, **__):
        raise RuntimeError("a model that contradicts itself")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", reject)
    assert types_in(load(bodies(BODY)), "Scan")["o"] == "f32[8,2]"
