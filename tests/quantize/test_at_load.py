"""Weights stored for onnxruntime: in a form that it converts as it loads, with the numbers of DequantizeLinear."""

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.measure import ort_session
from graphopt.runtime.place.cost import floats_multiply_faster
from tests.quantize.nets import convnet, images, parse

FEEDS = images(4)
LAYERS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "GRU")
RECURRENT = """<ir_version: 8, opset_import: ["" : 17]> net (float[6,1,48] x) => (float[6,1,1,48] y)
<float[1,144,48] w, float[1,144,48] r> { y, h = GRU<hidden_size=48>(x, w, r) }"""
PRODUCTS = """<ir_version: 8, opset_import: ["" : 17]> net (float[N,32] x) => (float[N,16] y)
<float[32,768] w1, float[768,768] w2, float[768,16] w3, float[16,16] w4>
{ a = MatMul(x, w1)
  b = Relu(a)
  c = MatMul(b, w2)
  d = Relu(c)
  e = MatMul(d, w3)
  f = Tanh(e)
  y = MatMul(f, w4) }"""


def stored(model, target, calibration, **options):
    """The model with stored weights, in the target's form, whatever accuracy says."""
    asked = graphopt.Quantize("weights", speed=False, min_sqnr=0.0, min_top1=0.0, **options)
    return graphopt.optimize(model, quantize=asked, calibration=calibration, target=target).model


def weights(model, feed):
    """The operators that make the weights of layers, and the weights as onnxruntime computes them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = {name: node for node in copy.graph.node for name in node.output}
    layers = [node for node in copy.graph.node if node.op_type in LAYERS]
    read = [name for node in layers for name in node.input[1 : 3 if node.op_type == "GRU" else 2]]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in read)
    return [nodes[n].op_type for n in read], ort_session(copy.SerializeToString(), optimize=False).run(read, feed)


@pytest.mark.parametrize("options", [{}, {"weight_type": "uint8"}, {"per_channel": False}, {"weight_type": "int4"}])
def test_convolutions_are_converted_as_the_model_loads(options):
    ours, theirs = (stored(convnet(), target, FEEDS, **options) for target in ("onnxruntime", "portable"))
    (at_load, floats), (as_codes, same) = weights(ours, FEEDS[0]), weights(theirs, FEEDS[0])
    assert at_load[:4] == ["Mul"] * 4 and set(as_codes) == {"DequantizeLinear"}
    for a, b in zip(floats[:4], same[:4]):
        np.testing.assert_array_equal(a, b)


def test_recurrent_layers_are_converted_as_the_model_loads():
    model, feeds = parse(RECURRENT), [{"x": np.random.default_rng(0).standard_normal((6, 1, 48)).astype(np.float32)}]
    ours, theirs = (stored(model, target, feeds) for target in ("onnxruntime", "portable"))
    (at_load, floats), (as_codes, same) = weights(ours, feeds[0]), weights(theirs, feeds[0])
    assert at_load == ["Mul"] * 2 and as_codes == ["DequantizeLinear"] * 2
    for a, b in zip(floats, same):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rows", [1, 256])
@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
def test_products_are_converted_where_floats_are_predicted_to_be_faster(rows, weight_type):
    model = parse(PRODUCTS)
    feeds = [{"x": np.random.default_rng(0).standard_normal((rows, 32)).astype(np.float32)}]
    sizes = ((32, 768), (768, 768), (768, 16), (16, 16))
    faster = [floats_multiply_faster(rows, *size) for size in sizes]
    assert faster[1::2] == [False, True]  # many weights are read as codes
    made, floats = weights(stored(model, "onnxruntime", feeds, weight_type=weight_type), feeds[0])
    assert made == ["Mul" if one else "DequantizeLinear" for one in faster]
    assert [array.shape for array in floats] == list(sizes)
