"""What quantization writes for onnxruntime: channels in fours, LRN by roots; neither for graphopt's own kernels."""

import numpy as np

import graphopt
from graphopt.measure import ort_session
from graphopt.passes.quantize import decide
from graphopt.passes.quantize.place.latency_guard import TimedAssignment
from tests.passes.harness import parse

TEXT = """g (float[N,3,32,32] x) => (float[a,b,c,d] y) <float[16,3,3,3] w, float[32,16,3,3] v> {
  h = Conv<pads = [1, 1, 1, 1]>(x, w)
  r = Relu(h)
  n = LRN<size = 5>(r)
  y = Conv(n, v)
}"""


def quantized(target):
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(4)]
    options = graphopt.Quantize(speed=target != "graphopt", min_sqnr=-100, min_top1=0)
    return graphopt.optimize(parse(TEXT), quantize=options, calibration=feeds, target=target), feeds


def test_what_onnxruntime_runs_fast(monkeypatch):
    monkeypatch.setattr(decide, "fastest", lambda model, given, feed, target: (
        TimedAssignment(given[0], 4.0) if given else TimedAssignment(None, 1.0)
    ))  # fmt: skip
    result, feeds = quantized("portable")
    ops = {node.op_type for node in result.model.graph.node}
    assert "Pad" in ops and "Sqrt" in ops and "LRN" not in ops
    given, made = parse(TEXT).SerializeToString(), result.model.SerializeToString()
    a, b = (ort_session(model).run(None, feeds[0])[0] for model in (given, made))
    assert np.linalg.norm(a - b) < 0.03 * np.linalg.norm(a)


def test_own_kernels_take_the_model_as_it_is():
    ops = {node.op_type for node in quantized("graphopt")[0].model.graph.node}
    assert "LRN" in ops and not ops & {"Pad", "Sqrt", "SpaceToDepth"}
