"""Models that are valid but unusual come back pruned, or as they came with the reason; none is refused."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.analysis.channels import find_channels
from graphopt.compress.layers.rows import check_same_sizes
from graphopt.errors import Declined
from graphopt.measure import ort_session
from graphopt.passes.prune.score.measured import measured_scores
from tests.prune.test_kinds import lift

RNG = np.random.default_rng(3)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


CONSTANT_DATA = """m (float[N,4] x) => (float[5,N] y)
    { h = MatMul(x, a)
      g = MatMul(h, b)
      p = MatMul(t, c)
      q = MatMul(p, d)
      r = Transpose <perm = [1, 0]> (g)
      y = MatMul(q, r) }"""


@pytest.mark.parametrize("importance", ["reconstruction", "hessian"])
def test_a_layer_may_read_a_constant(importance):
    """As relative positions do in DeBERTa: its channels are scored without data and removed all the same."""
    weights = {"a": weight(4, 16), "b": weight(16, 12), "t": weight(5, 12), "c": weight(12, 16), "d": weight(16, 12)}
    model = lift(CONSTANT_DATA, 17, **weights)
    options = graphopt.Prune(ratio=0.4, round_to=1, importance=importance)
    proto, feeds = onnx_io.to_proto(model), [{"x": weight(3, 4)}]
    result = graphopt.optimize(proto, prune=options, calibration=feeds, passes=[], validate=False)
    (stage,) = result.report.stages
    assert stage.changed and stage.figures["removed"] >= 8
    assert ort_session(result.model.SerializeToString()).run(None, feeds[0])[0].shape == (5, 3)


CHOSEN_ROWS = """m (float[N,4] x) => (float[M,6] y)
    { h = MatMul(x, a)
      r = Relu(h)
      s = MatMul(r, b)
      f = Greater(s, zero)
      g = Squeeze(f, one)
      k = Compress <axis = 0> (x, g)
      p = MatMul(k, c)
      q = Relu(p)
      y = MatMul(q, d) }"""


def test_lengths_may_differ_between_runs():
    """As durations of speech do: what is pruned before decides how many rows later layers read."""
    weights = {
        "a": weight(4, 16), "b": weight(16, 1), "zero": np.float32(0), "one": np.array([1]), "c": weight(4, 16),
        "d": weight(16, 6),
    }  # fmt: skip
    proto = onnx_io.to_proto(lift(CHOSEN_ROWS, 17, **weights))
    feeds = [{"x": weight(40, 4)} for _ in range(4)]
    options = graphopt.Prune(ratio=0.5, round_to=1, global_ranking=False, importance="random")
    result = graphopt.optimize(proto, prune=options, calibration=feeds, passes=[], validate=False)
    (stage,) = result.report.stages
    assert stage.changed and any("other sizes than in the original" in why for _, why in stage.refused)
    assert ort_session(result.model.SerializeToString()).run(None, feeds[0])[0].shape[1] == 6


SIZES = {
    "Conv": "m (float[N,4,9,7] x) => (float[N,8,P,Q] y) <float[8,4,3,3] w> "
            "{ y = Conv <strides = [2, 1], pads = [1, 0, 1, 2], dilations = [1, 2]> (x, w) }",
    "Conv by name": "m (float[N,4,9,8] x) => (float[N,8,P,Q] y) <float[8,4,3,3] w> "
                    "{ y = Conv <strides = [2, 2], auto_pad = \"SAME_UPPER\"> (x, w) }",
    "ConvTranspose": "m (float[N,4,5,4] x) => (float[N,3,P,Q] y) <float[4,3,3,2] w> "
                     "{ y = ConvTranspose <strides = [2, 3], pads = [1, 0, 0, 1], output_padding = [1, 2]> (x, w) }",
    "MatMul": "m (float[N,5,4] x) => (float[N,5,6] y) <float[4,6] w> { y = MatMul(x, w) }",
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_a_layer_follow_from_its_input(name):
    from tests.prune.test_recovery import layer_and_arrays

    layer, x, y = layer_and_arrays(SIZES[name])
    check_same_sizes(layer, x, y.shape)
    with pytest.raises(Declined, match="other sizes"):
        check_same_sizes(layer, x[:, ..., :-1, :] if x.ndim == 4 else x[:, :-1], y.shape)


def test_both_sides_of_products_are_found():
    """One value on both sides, and a product of codes, whose right side is the fourth input."""
    model = lift(
        """m (float[N,6] x) => (float[N,M] y, float[N,K] u)
        { h = MatMul(x, a)
          t = Transpose <perm = [1, 0]> (h)
          y = MatMul(h, t)
          v = MatMul(t, h)
          w = MatMul(v, b)
          e = MatMul(x, c)
          q = QuantizeLinear(e, s, z)
          o = Transpose <perm = [1, 0]> (q)
          p = QLinearMatMul(q, s, z, o, s, z, s, z)
          u = DequantizeLinear(p, s, z) }""",
        17, a=weight(6, 8), b=weight(8, 3), c=weight(6, 8), s=np.float32(0.05), z=np.uint8(128),
    )  # fmt: skip
    facts = find_channels(model)
    assert {product.node.op for product in facts.products} >= {"MatMul", "QLinearMatMul"}
    scores = measured_scores(model, facts, "reconstruction", [{"x": weight(7, 6)}], 0)
    for product in facts.products:
        assert (scores[product.elements] > 0).any()
