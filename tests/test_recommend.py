"""The mode that is recommended: by the choice's own rules, and end to end on small models."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import graphopt
from graphopt.cli import app
from graphopt.errors import InputError, OptionError
from graphopt.measure import Fidelity, Timing
from graphopt.recommendation import Mode, Recommendation, trial, workbench
from graphopt.recommendation.choosing import WAYS, Made, choose, is_open
from tests.quantize.nets import convnet, images

BYTES = {"exact": 1000, "weights": 300, "dynamic": 310, "static": 320, "prune + static": 200}


def choice(speeds, errors=None, unfit=(), sizes=None):
    """The name of the chosen mode, and all rows, where modes have these speeds."""
    made, rows = [], {}
    for way in WAYS:
        if way.name not in speeds:
            continue
        size = {**BYTES, **(sizes or {})}[way.name]
        mode = Mode(way.name, "", file_bytes=size, speed=speeds[way.name], error=(errors or {}).get(way.name, 0.005))
        rows[way.name] = mode
        made.append(Made(way, mode, None, way.name not in unfit))
    return choose(made, rows).way.name, rows


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ({"exact": 1.0, "weights": 0.7, "dynamic": 0.8, "static": 0.8}, "exact"),
        ({"exact": 1.0, "weights": 1.0, "dynamic": 1.02, "static": 1.03}, "weights"),
        ({"exact": 1.0, "weights": 1.0, "dynamic": 1.5, "static": 1.55}, "dynamic"),
        ({"exact": 1.0, "weights": 1.0, "dynamic": 1.2, "static": 2.0}, "static"),
        ({"exact": 1.0, "dynamic": 0.9, "static": 2.0, "prune + static": 2.5}, "prune + static"),
    ],
)
def test_the_least_lossy_mode_that_no_other_clearly_beats(speeds, chosen):
    name, rows = choice(speeds)
    assert name == chosen and [row.name for row in rows.values() if row.is_chosen] == [chosen]
    assert all(row.why for row in rows.values())


def test_where_the_interval_is_unclear_the_less_lossy_mode_is_kept():
    speeds, size = {"exact": 1.0, "static": 1.2}, {"static": 990}
    assert choice(speeds, {"static": 0.005}, sizes=size)[0] == "static"
    name, rows = choice(speeds, {"static": 0.08}, sizes=size)
    assert name == "exact" and "not clear" in rows["static"].why


def test_a_busy_machine_does_not_change_the_choice():
    """The same ratios, five times as uncertain: what is clear stays clear."""
    speeds = {"exact": 1.0, "weights": 0.6, "static": 2.1}
    assert choice(speeds)[0] == choice(speeds, dict.fromkeys(speeds, 0.025))[0] == "static"


def test_a_mode_that_costs_too_much_is_not_chosen():
    assert choice({"exact": 1.0, "dynamic": 1.3, "static": 3.0}, unfit=("static",))[0] == "dynamic"


def _timed(monkeypatch, *speeds):
    """Let timing give these speeds to all modes but the original, and count how often it is asked."""
    calls = []

    def compare_latency(sessions, feed, *, seconds, clock):
        calls.append(seconds)
        speed, error = speeds[min(len(calls), len(speeds)) - 1]
        return [Timing(label, 1.0, 1.0, 1.0 if label == "original" else speed, 9, error) for label in sessions]

    monkeypatch.setattr(workbench, "compare_latency", compare_latency)
    return calls


def test_what_leaves_a_choice_open_is_measured_again():
    open_case = (Mode("exact", "", speed=1.0, file_bytes=9), Mode("static", "", speed=1.12, error=0.02, file_bytes=9))
    exact, static = (Made(way, mode, None) for way, mode in zip((WAYS[0], WAYS[4]), open_case))
    assert is_open(static, exact) and not is_open(exact, static)
    static.mode = Mode("static", "", speed=1.5, error=0.02, file_bytes=9)
    assert not is_open(static, exact)


def test_without_data_nothing_lossy_is_chosen_and_the_reader_is_told(monkeypatch):
    calls = _timed(monkeypatch, (3.0, 0.001))
    found = graphopt.recommend(convnet(), seconds=0.01)
    assert isinstance(found, Recommendation) and found.choice.name == "exact" and len(calls) == 1
    assert any("no calibration data" in note for note in found.notes)
    by_name = {mode.name: mode for mode in found.modes}
    assert by_name["static"].why == "not run: it needs calibration data"
    assert all(mode.fidelity is None and mode.metric is None for mode in found.modes)


def test_end_to_end_with_data_files_and_a_notebook(monkeypatch, tmp_path):
    _timed(monkeypatch, (1.0, 0.001))
    data = iter(images(6))  # can be read only once
    found = graphopt.recommend(convnet(), data, out=tmp_path, seconds=0.01)
    written = json.loads((tmp_path / "recommendation.json").read_text())
    assert written["choice"] == found.choice.name and len(written["modes"]) == len(found.modes) >= 5
    onnx.checker.check_model(onnx.load(tmp_path / "model.exact.onnx"))
    for mode in found.modes:
        assert bool(mode.path) == (mode.file_bytes is not None and mode.name != "original")
    assert found.result.report.before.nodes and "<table>" in found._repr_html_()
    assert found.choice.name in str(found) and "why" in str(found)


def test_the_metric_judges_where_there_is_one(monkeypatch):
    _timed(monkeypatch, (2.0, 0.001))
    feed = images(1)[0]
    reference = None

    def metric(session):
        nonlocal reference
        result = session.run(None, feed)[0]
        reference = result if reference is None else reference
        return 100.0 if np.array_equal(result, reference) else 90.0

    found = graphopt.recommend(convnet(), images(4), metric, seconds=0.01)
    lossy = [mode for mode in found.modes[2:] if mode.file_bytes is not None]
    assert all("the metric falls by 10" in mode.why for mode in lossy) and found.choice.name == "exact"
    assert found.modes[0].metric == 100.0


def test_the_worst_samples_count_not_the_sum_of_all():
    """Nine loud samples at 40 dB and three of twelve at 10: 33 dB in all, but nine of ten keep only 10."""
    from graphopt.measure.quality import _Expected, _Tally

    tally = _Tally()
    for i in range(12):
        reference = np.full((1, 1, 1, 4), 10.0 if i < 9 else 1.0, np.float32)
        tally.add(_Expected.of(reference), reference * np.float32(1.01 if i < 9 else 1.316))
    assert tally.sqnr_db > 30.0 and tally.low_db == pytest.approx(10.0, abs=0.1)
    silent = _Tally()
    for value, error in ((1.0, 0.01), (0.0, 0.01)):
        reference = np.full((1, 1, 1, 4), value, np.float32)
        silent.add(_Expected.of(reference), reference + np.float32(error))
    assert silent.low_db == pytest.approx(17.0, abs=0.1), "a sample without a signal has a hundredth of the mean one"


def test_a_mode_with_bad_samples_is_not_chosen(monkeypatch):
    _timed(monkeypatch, (3.0, 0.001))
    monkeypatch.setattr(
        workbench.Quality, "fidelity", lambda self, model, samples=None: Fidelity(21.0, None, None, 7.6)
    )
    found = graphopt.recommend(convnet(), images(8), seconds=0.01)
    lossy = [mode for mode in found.modes[2:] if mode.file_bytes is not None]
    assert lossy and all("some samples keep only 7.6 dB" in mode.why for mode in lossy)
    assert found.choice.name == "exact" and found.choice.to_dict()["low_sqnr_db"] is None
    assert lossy[0].to_dict()["low_sqnr_db"] == 7.6


@pytest.mark.parametrize(("count", "judges"), [(4, 2), (16, 8), (32, 8), (40, 10)])
def test_samples_that_judge_do_not_make_the_mode(count, judges):
    bench = workbench.Workbench(convnet(), images(count), None, None, "portable", 0)
    assert (len(list(bench.taught)), len(list(bench.quality.feeds))) == (count - judges, judges) and bench.is_judged


def test_few_samples_do_not_choose_what_learned_from_them():
    from types import SimpleNamespace

    run = trial.Trial(workbench.Workbench(convnet(), images(3), None, None, "portable", 0), None, None, 0.01, None)
    assert run.notes == ["fewer than 4 samples: none was held out to judge by"]
    run.bench.quality = SimpleNamespace(fidelity=lambda model: Fidelity(40.0, None, None))
    for way in WAYS[2:5]:
        made = Made(way, Mode(way.name, ""), SimpleNamespace(ir=None))
        run._judge(made)
        assert made.is_fit is not way.needs_data and ("give 4 samples at least" in made.mode.why) is way.needs_data


def test_half_precision_is_among_the_modes(monkeypatch):
    """It is made and measured: at the speed of the exact model its smaller file is worth it, at less it is not."""
    _timed(monkeypatch, (0.9, 0.001))
    found = graphopt.recommend(convnet(), images(8), seconds=0.01)
    half = next(mode for mode in found.modes if mode.name == "float16")
    assert half.file_bytes is not None and half.fidelity.sqnr_db > 45 and "--precision float16" in half.command
    assert "as fast and 1.7" in half.why and choice({"exact": 1.0, "float16": 0.8}, sizes={"float16": 55})[0] == "exact"


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(OptionError, match="max_drop= needs metric="):
        graphopt.recommend(convnet(), max_drop=0.1)
    with pytest.raises(InputError, match="calibration"):
        graphopt.recommend(convnet(), [{"wrong": np.zeros(3)}])


def test_the_command_line_prints_a_table_and_json(monkeypatch, tmp_path):
    _timed(monkeypatch, (1.0, 0.001))
    onnx.save(convnet(), tmp_path / "m.onnx")
    ran = CliRunner().invoke(app, ["recommend", str(tmp_path / "m.onnx"), "--json", "--seconds", "0.01"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["choice"] == "exact"
    ran = CliRunner().invoke(app, ["recommend", str(tmp_path / "m.onnx"), "--seconds", "0.01"])
    assert ran.exit_code == 0 and "exact" in ran.stdout and "smaller" in ran.stdout


def test_infinite_fidelity_is_no_json_number():
    mode = Mode("exact", "", fidelity=Fidelity(math.inf, None, None))
    assert json.loads(json.dumps(mode.to_dict(), allow_nan=False))["sqnr_db"] is None
