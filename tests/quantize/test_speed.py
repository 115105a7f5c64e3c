"""The speed guard keeps what it is certain of, and the prediction where other work blurred all it measured."""

from itertools import groupby
from math import inf

import numpy as np
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.compress import speed
from graphopt.compress.speed import SECONDS, Speed, is_clear
from graphopt.measure import Timing, interleaved
from graphopt.passes.quantize import decide
from graphopt.passes.quantize.candidates.assignment import Assignment
from graphopt.passes.quantize.candidates.units import find_units
from graphopt.passes.quantize.place import cost_model, latency_guard
from tests.quantize.nets import convnet, images, parse


def timing(ratio, error):
    return Timing("", 1e-3, 1e-3, ratio, 20, error)


def test_other_work_shows_in_the_error_of_a_ratio():
    ticks = iter(range(10**6))

    def timed(jitter):
        now = [0.0]

        def clock():
            return now[0]

        def first():
            now[0] += 1.0

        def second():
            now[0] += 2.0 if jitter and next(ticks) // 1000 % 2 else 1.0  # short calls: a thousand a turn

        return interleaved({"a": first, "b": second}, seconds=0, min_runs=20, clock=clock)[1]

    assert timed(False).error == 0.0 and timed(False).ratio == 1.0
    assert timed(True).error > 0.05


def test_no_candidate_always_runs_behind_the_same_one():
    order = []

    def clock():
        return float(len(order))

    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = interleaved(runs, seconds=0, min_runs=4, clock=clock)
    turns = "".join(name for name, _ in groupby(order[-4 * 3 * 1000 :]))
    assert turns.endswith("abcbabcba") and all(timing.median == 1.0 for timing in times)


def test_seconds_are_those_of_the_clock():
    """A busy machine makes as many runs as a quiet one: here wall time stands still beside the clock."""
    now = [0.0]

    def run():
        now[0] += 1.0

    first, second = interleaved({"a": run, "b": run}, seconds=5000.0, max_runs=10**5, clock=lambda: now[0])
    assert 5 <= first.runs == second.runs < 10**5 and now[0] >= 10**4


def test_rates_of_conversions_are_measured_once(monkeypatch, tmp_path):
    """They decide where a minimum cut runs, in later processes, too."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    rates = iter([(1e-9, 2e-9), (3e-9, 4e-9)])
    monkeypatch.setattr(cost_model, "_measured_rates", lambda: next(rates))
    assert cost_model.conversion_rates() == cost_model.conversion_rates() == (1e-9, 2e-9)


@pytest.mark.parametrize(
    ("rounds", "asked", "predicted", "faster"),
    [
        ([timing(1.03, 0.02), timing(1.3, 0.004)], 2, 0.5, True),  # blurred first, clear then
        ([timing(1.5, 0.03)], 1, 0.5, True),  # far from the border: blurred, but clear
        ([timing(1.05, 0.02)] * 3, 3, 1.05, False),  # never clear: the prediction, which must be clearly faster
        ([timing(0.99, 0.02)] * 3, 3, 1.3, True),  # never clear: other work on the machine may be all of it
    ],
)
def test_a_time_that_is_never_clear_gives_way_to_the_prediction(
    rounds, asked, predicted, faster, monkeypatch, tmp_path
):
    """Either is kept: what else the machine does later changes no bytes."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    calls = []

    def compare(sessions, feed, seconds, clock):
        found = rounds[len(calls)]
        calls.append(seconds)
        return [Timing(label, 1e-3, 1e-3, found.ratio, 20, found.error) for label in sessions]

    monkeypatch.setattr(speed, "compare_latency", compare)
    monkeypatch.setattr(speed, "timing_session", lambda model, target: None)
    monkeypatch.setattr(speed, "predicted", lambda made, feed, target: predicted if made is model else 1.0)
    monkeypatch.setattr(latency_guard, "build", lambda assignment: None)
    model, options = onnx_io.load(convnet()), graphopt.Quantize()
    assignment = Assignment(model, frozenset(find_units(model, options).members), {}, {}, options)
    monkeypatch.setattr(latency_guard, "_key", lambda assignment, feed, target: "whole:this")
    best = latency_guard.fastest(model, [assignment], {}, "portable")
    clear = is_clear(rounds[asked - 1])
    assert best.assignment is (assignment if faster else None) and best.is_predicted is (faster and not clear)
    assert best.speedup == pytest.approx((rounds[asked - 1].ratio if clear else predicted) if faster else 1.0)
    assert calls == [SECONDS * 2**i for i in range(asked)]
    assert latency_guard.fastest(model, [assignment], {}, "portable") == best and len(calls) == asked


def test_of_assignments_alike_in_time_the_first_is_taken(monkeypatch):
    model, options = onnx_io.load(convnet()), graphopt.Quantize()
    units = frozenset(find_units(model, options).members)
    first, second = (Assignment(model, units, {}, {}, options) for _ in "ab")
    monkeypatch.setattr(latency_guard, "_key", lambda assignment, feed, target: "ab"[assignment is second])
    for ratio, best in ((1.51, first), (1.55, second)):
        found = {"a": Speed(1.5, 1.0), "b": Speed(ratio, 1.0)}
        monkeypatch.setattr(latency_guard, "kept_speeds", lambda *given, found=found: found)
        assert latency_guard.fastest(model, [first, second], {}, "portable").assignment is best


@pytest.mark.parametrize("target", ["portable", "graphopt"])
def test_the_prediction_of_a_wide_net_is_faster_on_integers(target):
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[N,256] x) => (float[N,256] y)
        <float[256,1024] a, float[1024,256] b> { h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }"""
    )
    feed = {"x": np.ones((32, 256), np.float32)}
    made = graphopt.optimize(model, quantize=graphopt.Quantize(speed=False), calibration=[feed] * 2).ir
    before, after = (speed.predicted(one, feed, target) for one in (onnx_io.load(model), made))
    assert before > latency_guard.PREDICTED_GAIN * after and speed.predicted(made, feed, target) == after


@pytest.mark.parametrize(
    ("gain", "most", "kernel", "changed"),
    [
        (1.03, inf, 3, False),  # noise, and no bytes
        (1.3, inf, 3, True),  # clear
        (1.3, 1.02, 3, False),  # more than the layer's own time: noise of the measurement
        (1.03, inf, 1, True),  # half of the work
    ],
)
def test_a_sliver_on_integers_must_gain_clearly(gain, most, kernel, changed, monkeypatch):
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,16,16] x) => (float[1,8,16,16] y)
        <float[64,3,3,3] w1, float[64,64,{kernel},{kernel}] w2, float[8,64,1,1] w3>
        {{ a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)
           c = Conv<pads=[{kernel // 2},{kernel // 2},{kernel // 2},{kernel // 2}]>(b, w2)  d = Relu(c)
           y = Conv(d, w3) }}"""
    )
    excluded = ["a", "c"] if kernel == 3 else ["y", "c"]

    def fastest(model, assignments, feed, target):
        return latency_guard.TimedAssignment(assignments[0] if assignments else None, gain)

    monkeypatch.setattr(decide, "fastest", fastest)
    monkeypatch.setattr(decide, "most_gain", lambda calibrated, units: most)
    monkeypatch.setattr(decide, "min_cut_candidates", lambda calibrated, assignment: [assignment])
    options = graphopt.Quantize(nodes_to_exclude=excluded)
    stage = graphopt.optimize(model, quantize=options, calibration=images(4)).report.stages[0]
    assert stage.changed == changed
    if not changed:
        told = f"1% of MACs in int8 would gain at most {min(gain, most):.2f}× and 1% fewer bytes, which is noise"
        assert stage.summary == f"left float: {told}"


@pytest.mark.parametrize(
    ("wide", "ratio", "summary"),
    [
        (8, 0.99, "fewer bytes, 0.99× as fast"),
        (8, 0.95, "left float: integers are not faster"),
        (8000, 1.1, "which is noise"),
    ],
)
def test_tables_alone_are_stored_for_their_size(wide, ratio, summary, monkeypatch, tmp_path):
    """Their time is noise: they must save bytes, and not be slower."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (int64[1,9] ids) => (float[1,9,{wide}] y)
        <float[300,64] table, float[64,{wide}] w> {{ e = Gather(table, ids)  y = MatMul(e, w) }}"""
    )

    def timed(sessions, feed, seconds, attempts):
        return [Timing(label, 1e-3, 1e-3, ratio, 20) for label in [*sessions][1:]]

    monkeypatch.setattr(latency_guard, "stable_timings", timed)
    feeds = [{"ids": np.full((1, 9), i)} for i in range(4)]
    options = graphopt.Quantize("dynamic", nodes_to_exclude=["y"])
    stage = graphopt.optimize(model, quantize=options, calibration=feeds).report.stages[0]
    assert stage.changed is ("fewer bytes, 0" in summary) and summary in stage.summary
