"""Made-up inputs: refused where ranges come from them, unless asked for; never the source of a figure of accuracy."""

import json
import re
import warnings

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.cli.results import MARK
from tests.command import cli
from tests.equivalence.nets import cnn
from tests.quantize.nets import convnet, images

FREE = {"speed": False, "min_sqnr": -1.0, "min_top1": 0.0}
"""A floor that a random net passes, so that there is an int8 result to speak of."""
ACCURACY = re.compile(r"\d dB|SQNR|top-1|agreement|error of \d")
"""Words that tell how good results are."""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(convnet(), path)
    return path


@pytest.mark.parametrize("asked", ["static", "INT8", {"mode": "static"}, graphopt.Quantize()])
def test_static_without_data_is_refused_before_anything_is_read(asked, tmp_path):
    with pytest.raises(graphopt.OptionError) as caught:
        graphopt.optimize(tmp_path / "absent.onnx", tmp_path / "out.onnx", quantize=asked)
    line = str(caught.value)
    assert "calibration=" in line and "--calibration samples.npz" in line and '"synthetic"' in line and "\n" not in line
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_in_one_line_and_writes_nothing(source, tmp_path):
    done = cli("optimize", source, tmp_path / "out.onnx", "--quantize", "int8")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--calibration samples.npz" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_made_up_ranges_stand_under_a_banner_everywhere(source, tmp_path):
    out, words = tmp_path / "out.onnx", [f"{name}={value}" for name, value in FREE.items()]
    given = [part for word in words for part in ("--quantize-option", word)]
    asked = ("--quantize", "static", "--sensitivity", *given, "--calibration", "synthetic")
    done = cli("optimize", source, out, *asked, "--report", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    banner = "MADE-UP INPUTS: ranges of activations come from them; accuracy is unknown. Give calibration data."
    assert " ".join(done.stdout.split()).startswith(banner) and "accuracy not measured (made-up inputs)" in done.stdout
    assert not ACCURACY.search(done.stdout)
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["banner"] == banner and written["synthetic"] is True
    assert written["stages"][0]["changed"] and not ACCURACY.search(json.dumps(written["stages"]))
    columns = written["stages"][0]["columns"]
    for row in written["stages"][0]["rows"]:
        cells = dict(zip(columns, row))
        assert "error alone" not in cells and cells["J found"] is cells["weight error"] is None
    told = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert told == {"graphopt.made_up": banner, MARK: "int8"}


def test_pages_and_pull_requests_begin_with_the_banner():
    with pytest.warns(UserWarning, match="MADE-UP INPUTS"):
        report = graphopt.optimize(cnn(), quantize=graphopt.Quantize(**FREE), calibration="synthetic").report
    assert report.status == "lossy"
    page, text = report.to_html(seconds=0), report.to_markdown(seconds=0)
    assert '<p class="banner" role="alert">MADE-UP INPUTS' in page and "Validation of the exact passes" in page
    assert text.startswith("> [!CAUTION]\n> MADE-UP INPUTS") and not ACCURACY.search(text)


@pytest.mark.parametrize("asked", [
    {"quantize": graphopt.Quantize(mode="dynamic", **FREE)}, {"quantize": graphopt.Quantize(mode="weights", **FREE)},
    {"prune": graphopt.Prune(ratio=0.3, round_to=1)},
], ids=["dynamic", "weights", "prune"])  # fmt: skip
def test_stages_that_run_without_data_claim_no_accuracy(asked):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = graphopt.optimize(convnet(), **asked)
    (stage,) = result.report.stages
    assert stage.changed and "accuracy not measured (made-up inputs)" in stage.summary
    assert result.report.synthetic and not ACCURACY.search(str(result.report))
    assert "no calibration data was given" in result.report.notes[0]
    assert ("refitted weights come from them" in result.report.banner) == ("prune" in asked)


def test_accuracy_on_real_data_is_told_without_a_banner():
    result = graphopt.optimize(convnet(), quantize=graphopt.Quantize(**FREE), calibration=images(4))
    assert "SQNR" in result.report.stages[0].summary and not result.report.synthetic
    assert result.report.banner == "" and "MADE-UP" not in str(result.report) + result.report.to_markdown(seconds=0)
    assert "graphopt.made_up" not in {entry.key for entry in result.model.metadata_props}
    assert result.report.stages[0].figures["objective_after"] > 0


def test_the_callers_metric_is_told_whatever_chose_the_layers():
    feeds = images(2)

    def metric(session):
        return -float(np.abs(session.run(None, feeds[0])[0]).mean())

    asked = graphopt.Quantize(mode="dynamic", **FREE)
    report = graphopt.optimize(convnet(), quantize=asked, metric=metric, max_drop=10.0).report
    assert report.metric is not None and "metric falls by" in report.stages[0].summary
    assert not ACCURACY.search(report.stages[0].summary) and report.banner == ""
    asked = {"quantize": graphopt.Quantize(**FREE), "calibration": "synthetic", "metric": metric}
    with pytest.warns(UserWarning, match="the metric alone tells of accuracy"):
        assert "unknown" not in graphopt.optimize(convnet(), **asked).report.banner
