"""Models that hold −∞, NaN or the least float where something is masked: quantized around it, and named."""

import numpy as np
import pytest

import graphopt
from graphopt.calibration import numbers
from graphopt.measure import Quality, ort_session
from graphopt.onnx_io import load
from tests.quantize.nets import parse

LEAST = float(np.finfo(np.float32).min)
SIZE = 16


def attention():
    """One head whose scores take an added mask that is fed; rows of samples are padded to different lengths."""
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[1,8,{SIZE}] x, float[1,8,8] mask) => (float[1,8,{SIZE}] y)
        <float[{SIZE},{SIZE}] wq, float[{SIZE},{SIZE}] wk, float[{SIZE},{SIZE}] wv, float[{SIZE},{SIZE}] wo>
        {{
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            v = MatMul(x, wv)
            t = Transpose<perm=[0,2,1]>(k)
            s = MatMul(q, t)
            m = Add(s, mask)
            twice = Add(m, mask)
            p = Softmax<axis=-1>(twice)
            c = MatMul(p, v)
            y = MatMul(c, wo)
        }}"""
    )


def padded(value, count=6):
    rng = np.random.default_rng(0)
    feeds = []
    for i in range(count):
        mask = np.zeros((1, 8, 8), np.float32)
        mask[..., 8 - i % 3 :] = value
        feeds.append({"x": rng.standard_normal((1, 8, SIZE)).astype(np.float32), "mask": mask})
    return feeds


@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
@pytest.mark.parametrize("value", [-np.inf, LEAST])
def test_masked_scores_stay_float_and_the_rest_is_quantized(mode, value):
    model, feeds = attention(), padded(value)
    made = graphopt.optimize(model, quantize=graphopt.Quantize(mode=mode, speed=False), calibration=feeds)
    stage = made.report.stages[0]
    assert made.report.status == "lossy" and stage.figures["layers"] == 4
    if mode == "static":
        reasons = dict(stage.refused)
        assert {"mask", "m", "twice"} <= set(reasons)
        assert all("mask values: it stays float" in reasons[name] for name in ("mask", "m", "twice"))
    a, b = (ort_session(m.SerializeToString()) for m in (model, made.model))
    for feed in feeds:
        before, after = a.run(None, feed)[0], b.run(None, feed)[0]
        assert ((before - after) ** 2).sum() < 1e-2 * (before**2).sum()


@pytest.mark.parametrize("mode, layers", [("static", 1), ("dynamic", 2), ("weights", 2)])
@pytest.mark.parametrize("masked", ["Div(x, d)", "Log(x)", "Sqrt(x)"])
def test_a_layer_that_reads_masked_rows_is_told_or_rounded_by_the_others(mode, layers, masked):
    """Infinite, negative infinite or NaN in the last row: one range for all rows would be of no use to the first."""
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (float[4,{SIZE}] x) => (float[4,{SIZE}] y, float[4,{SIZE}] z)
        <float[{SIZE},{SIZE}] v, float[{SIZE},{SIZE}] w, float[4,1] d>
        {{ h = {masked}  y = MatMul(h, w)  z = MatMul(x, v) }}""",
        d=np.array([[1.0], [1.0], [1.0], [0.0]]),
    )
    feeds = [{"x": np.random.default_rng(i).random((4, SIZE)).astype(np.float32) + 0.1} for i in range(6)]
    for feed in feeds if masked != "Div(x, d)" else ():
        feed["x"][3] *= 0 if masked == "Log(x)" else -1
    options = graphopt.Quantize(mode=mode, speed=False, min_top1=0)
    made = graphopt.optimize(model, quantize=options, calibration=feeds)
    stage = made.report.stages[0]
    assert made.report.status == "lossy" and stage.figures["layers"] == layers
    if mode == "static":
        assert dict(stage.refused)["y"] == "h beside it holds NaN, infinite or mask values"
    before, after = (ort_session(m.SerializeToString()).run(None, feeds[0]) for m in (model, made.model))
    for a, b in zip(before, after):
        assert ((a[:3] - b[:3]) ** 2).sum() < 1e-2 * (a[:3] ** 2).sum()


def test_masks_in_results_do_not_hide_noise():
    """Beside elements of −3e38 any noise would be nothing."""
    model = load(parse("""<ir_version: 8, opset_import: ["" : 17]> net (float[2,4] x) => (float[2,4] y)
        <float[4] one> { y = Mul(x, one) }""", one=np.ones(4)))  # fmt: skip
    other = load(parse("""<ir_version: 8, opset_import: ["" : 17]> net (float[2,4] x) => (float[2,4] y)
        <float[4] one> { y = Mul(x, one) }""", one=np.full(4, 1.1)))  # fmt: skip
    feed = {"x": np.array([[1, 2, 3, LEAST / 2], [3, 2, 1, 0]], np.float32)}
    quality = Quality(model, lambda m: ort_session(m), [feed])
    assert quality.fidelity(other).sqnr_db == pytest.approx(20, abs=0.01)


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan, -65504, -3e4])
def test_halves_that_are_no_numbers_are_told(number: float) -> None:
    halves = np.linspace(-29984, 65504, 24, dtype=np.float16).reshape(4, 6).T
    assert numbers(halves) is None and numbers(-np.abs(halves) / 4) is None and numbers(halves[:0]) is None
    halves[2, 3] = number
    kept = numbers(halves)
    assert kept is not None and not kept[2, 3] and kept.sum() == halves.size - 1
