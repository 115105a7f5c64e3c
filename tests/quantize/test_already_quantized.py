"""Models that somebody else has quantized are kept; redundant pairs go, weights stay codes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from models import fashion
from tests import zoo
from tests.quantize.nets import convnet, images


def pairs(scale=0.1, zero=3):
    """Quantize, dequantize, quantize again (by `scale` and `zero`), dequantize."""
    given = {"s": np.float32(0.1), "z": np.uint8(3), "t": np.float32(scale), "u": np.uint8(zero)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["a"]),
        helper.make_node("DequantizeLinear", ["a", "s", "z"], ["b"]),
        helper.make_node("QuantizeLinear", ["b", "t", "u"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "t", "u"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 8]) for n in "xy"]
    weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in given.items()]
    graph = helper.make_graph(nodes, "pairs", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def count(model, op):
    return sum(node.op_type == op for node in model.graph.node)


def test_the_same_pair_twice_is_once():
    result = graphopt.optimize(pairs())
    assert result.report.status == "equal" and count(result.model, "QuantizeLinear") == 1
    assert count(result.model, "DequantizeLinear") == 1


@pytest.mark.parametrize("other", [{"scale": 0.2}, {"zero": 4}])
def test_another_scale_stays(other):
    assert count(graphopt.optimize(pairs(**other)).model, "QuantizeLinear") == 2


@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
def test_quantized_models_are_kept(mode):
    data = {"image": fashion.load("test")[0][:4]}
    result = graphopt.optimize(fashion.FOLDER / "fashion_qdq.onnx", quantize=mode, calibration=data)
    stage = result.report.stages[0]
    assert not stage.changed and stage.summary.startswith("already quantized, kept: pairs (QDQ)")
    assert result.report.status == "equal"
    assert count(result.model, "QuantizeLinear") > 5


def test_our_own_results_are_recognised_and_not_unfolded():
    for mode in ("static", "dynamic"):
        options = graphopt.Quantize(mode=mode, speed=False, min_sqnr=0, min_top1=0)
        once = graphopt.optimize(convnet(), quantize=options, calibration=images(4))
        again = graphopt.optimize(once.model, quantize=options, calibration=images(4))
        assert not again.report.stages[0].changed
        assert again.report.after.file_bytes <= once.report.after.file_bytes * 1.01 + 64


@zoo.parametrize("minilm-int8", "smart-turn")
def test_zoo_models_quantized_by_others(name):
    data = [zoo.feeds(name)]
    result = graphopt.optimize(zoo.path(name), quantize="weights", calibration=data, validate=False)
    assert result.report.stages[0].summary.startswith("already quantized")
    assert result.report.after.file_bytes <= result.report.before.file_bytes * 1.01


def test_operator_form():
    options = graphopt.Quantize(speed=False, min_sqnr=0, min_top1=0, format="qoperator")
    pairs_of = graphopt.optimize(
        convnet(), quantize=graphopt.Quantize(speed=False, min_sqnr=0, min_top1=0), calibration=images(4)
    )
    made = graphopt.optimize(convnet(), quantize=options, calibration=images(4))
    onnx.checker.check_model(made.model, full_check=True)
    assert count(made.model, "QLinearConv") == 4 and count(made.model, "Conv") == 0
    from graphopt.measure import ort_session

    a, b = (ort_session(r.model.SerializeToString()) for r in (pairs_of, made))
    for feed in images(3, seed=5):
        assert np.allclose(a.run(None, feed)[0], b.run(None, feed)[0], atol=1e-5)
