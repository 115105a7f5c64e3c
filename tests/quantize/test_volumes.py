"""Convolutions over three axes (video, medical images): the same arithmetic with one axis more."""

import numpy as np
import pytest

import graphopt
from graphopt.measure import ort_session
from tests.quantize.nets import parse

VOLUMES = """<ir_version: 8, opset_import: ["" : 17]> net (float[N,3,8,16,16] x) => (float[N,10] y)
<float[8,3,3,3,3] w1, float[8] b1, float[8,4,3,3,3] w2, float[8] b2, float[8,1,3,3,3] w3, float[16,8,1,1,1] w4,
 float[10,16] w5, float[10] b5>
{
    c = Conv<pads=[1,1,1,1,1,1], strides=[1,2,2]>(x, w1, b1)
    r = Relu(c)
    d = Conv<group=2, auto_pad="SAME_UPPER">(r, w2, b2)
    s = Add(d, r)
    m = MaxPool<kernel_shape=[2,2,2], strides=[2,2,2]>(s)
    e = Conv<group=8, pads=[2,2,2,2,2,2], dilations=[2,2,2]>(m, w3)
    a = AveragePool<kernel_shape=[1,2,2], strides=[1,2,2]>(e)
    f = Conv(a, w4)
    t = Relu(f)
    g = GlobalAveragePool(t)
    v = Flatten(g)
    y = Gemm<transB=1>(v, w5, b5)
}"""
DATA = [{"x": np.random.default_rng(i).standard_normal((2, 3, 8, 16, 16)).astype(np.float32)} for i in range(4)]


def loss(made: graphopt.Result, model) -> float:
    """The SQNR of a result in dB, on data that it has not seen."""
    fresh = {"x": np.random.default_rng(9).standard_normal((3, 3, 8, 16, 16)).astype(np.float32)}
    wanted, found = (ort_session(m.SerializeToString()).run(None, fresh)[0] for m in (model, made.model))
    return 10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum())


@pytest.mark.parametrize(("mode", "bits", "least"), [("static", 8, 25), ("static", 4, 8), ("weights", 8, 35)])
@pytest.mark.parametrize("target", ["portable", "onnxruntime", "graphopt"])
def test_every_convolution_of_a_volume_is_quantized(mode, bits, least, target):
    model = parse(VOLUMES)
    options = graphopt.Quantize(mode=mode, weight_type=f"int{bits}", speed=False, min_sqnr=-np.inf, min_top1=0)
    made = graphopt.optimize(model, quantize=options, calibration=DATA, target=target)
    stage = made.report.stages[0]
    assert stage.figures["layers"] == 5 and not stage.refused
    assert stage.figures["share_of_macs"] == 1.0
    assert loss(made, model) > least


def test_stored_weights_are_a_byte_each():
    model = parse(VOLUMES)
    options = graphopt.Quantize(mode="weights", speed=False)
    made = graphopt.optimize(model, quantize=options, calibration=DATA)
    stored = {tuple(t.dims): len(t.raw_data) for t in made.model.graph.initializer if len(t.dims) == 5}
    assert stored == {(8, 3, 3, 3, 3): 648, (8, 4, 3, 3, 3): 864, (8, 1, 3, 3, 3): 216, (16, 8, 1, 1, 1): 128}


def test_the_session_computes_volumes_as_onnxruntime_does():
    model = parse(VOLUMES)
    options = graphopt.Quantize(speed=False, min_sqnr=-np.inf, min_top1=0)
    made = graphopt.optimize(model, quantize=options, calibration=DATA)
    ours = made.session(1).run(None, DATA[0])[0]
    assert np.array_equal(ours, ort_session(made.model.SerializeToString()).run(None, DATA[0])[0])
