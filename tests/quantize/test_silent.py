"""Ranges end where a gate makes elements count for nothing: below −3 in front of HardSwish, in either spelling."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.measure import ort_session
from graphopt.onnx_io import load
from graphopt.passes.quantize.candidates.derivable_ranges import silent_below
from tests.quantize.nets import images, parse

GATED = "h = HardSigmoid<alpha=0.25, beta=0.5>(c) m = Mul(c, h)"


def net(middle: str) -> onnx.ModelProto:
    """Two convolutions, of which the first yields c and the second reads m."""
    w = np.random.default_rng(0).standard_normal((8, 3, 3, 3)) * 4
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,16,16] x) => (float[N,4,16,16] y)
        <float[8,3,3,3] w, float[4,8,1,1] v, float[8] b>
        {{ c = Conv<pads=[1,1,1,1]>(x, w, b) {middle} y = Conv(m, v) }}""",
        w=w, b=np.full(8, -24.0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("middle", "floor"),
    [
        (GATED, -2.0), (GATED.replace("(c, h)", "(h, c)"), -2.0), ("m = HardSwish(c)", -3.0), ("m = Relu(c)", -np.inf),
        (f"{GATED.replace('m =', 'n =')} m = Add(n, c)", -np.inf),
        ("h = HardSigmoid(c) m = Add(c, h)", -np.inf), ("h = HardSigmoid(c) n = Mul(c, h) m = Mul(n, h)", -np.inf),
        ("s = Sigmoid(c) m = Mul(c, s)", -np.inf), ("t = Neg(c) h = HardSigmoid(t) m = Mul(c, h)", -np.inf),
    ],
)  # fmt: skip
def test_only_what_a_gate_alone_reads_has_a_floor(middle: str, floor: float) -> None:
    graph = load(net(middle)).graph
    (c,) = (node.output for node in graph if node.output.name == "c")
    assert silent_below(c) == floor


@pytest.mark.parametrize("per_channel", [False, "always"])
def test_results_are_closer_on_fresh_inputs(monkeypatch: pytest.MonkeyPatch, per_channel: bool | str) -> None:
    model, fresh = net("m = HardSwish(c)"), images(4, seed=3)

    def noise() -> float:
        quantize = graphopt.Quantize(
            "static", speed=False, min_sqnr=-np.inf, min_top1=0.0, per_channel_activations=per_channel
        )
        made = graphopt.optimize(model, calibration=images(8), quantize=quantize, validate=False).model
        a, b = (
            np.concatenate([ort_session(m.SerializeToString()).run(None, feed)[0] for feed in fresh])
            for m in (model, made)
        )
        return float(np.square(a - b).sum() / np.square(a).sum())

    after = noise()
    monkeypatch.setattr("graphopt.passes.quantize.candidates.calibrated_model.forget_silent", lambda seen: None)
    monkeypatch.setattr("graphopt.passes.quantize.place.per_channel_activations.silent_below", lambda value: -np.inf)
    assert after < 0.85 * noise()
