"""Recovery by distillation as a stage of `optimize`, and the commands `distil` and `prune --recover`."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import cli
from graphopt.errors import OptionError

from .test_distil import SHORT, X, network, quantized, weights_of

DATA = np.random.default_rng(7).normal(size=(400, 6)).astype(np.float32)
GENTLE = {"steps": 100, "learning_rate": 2e-3, "batch_size": 32, "threads": 1}
DISTIL = graphopt.Distil(**GENTLE)
PRUNE = graphopt.Prune(ratio=0.5)


def wide() -> onnx.ModelProto:
    return network(hidden=32)


def optimized(**options):
    return graphopt.optimize(wide(), calibration={"x": DATA}, **options)


def test_recovery_after_pruning_is_told_in_report_and_headline():
    closed, found = optimized(prune=PRUNE), optimized(prune=PRUNE, recover=DISTIL)
    stage = found.report.stages[-1]
    assert [s.name for s in found.report.stages] == ["prune", "recover"] and stage.changed
    assert stage.facts.error_after < stage.facts.error_before and stage.facts.held_out == 40
    assert "samples held out" in stage.summary and stage.fitted
    assert "recovered" in found.report.headline and "held-out samples" in found.report.headline
    assert "recovered" not in closed.report.headline
    assert "held out" in found.report.to_html(seconds=0)
    shapes = [(t.name, tuple(t.dims)) for t in found.model.graph.initializer]
    assert shapes == [(t.name, tuple(t.dims)) for t in closed.model.graph.initializer]


@pytest.mark.parametrize("recover", [DISTIL, GENTLE])
def test_recovery_may_be_asked_of_prune_itself(recover):
    given = graphopt.Prune(ratio=0.5, recover=DISTIL)
    asked = optimized(prune=given), optimized(prune=PRUNE, recover=recover)
    assert asked[0].model.SerializeToString() == asked[1].model.SerializeToString()


def test_a_quantized_model_is_fine_tuned():
    found = graphopt.optimize(
        network(hidden=32), calibration={"x": X}, recover=DISTIL,
        quantize=graphopt.Quantize("static", speed=False, weight_type="int8"),
    )  # fmt: skip
    stage = found.report.stages[-1]
    assert stage.name == "fine-tune" and stage.facts.error_after <= stage.facts.error_before
    assert math.isfinite(stage.facts.error_before)
    kinds = {n: w.dtype for n, w in weights_of(found.model).items()}
    assert kinds == {n: w.dtype for n, w in weights_of(quantized(weight_type="int8")).items()}


def test_where_nothing_was_lost_nothing_is_trained():
    found = optimized(prune=graphopt.Prune(ratio=0.0), recover=DISTIL)
    assert not found.report.stages[-1].changed and "nothing to recover" in found.report.stages[-1].summary


def test_a_metric_that_falls_hands_the_weights_back():
    scores = iter(range(9))  # what was trained is scored first
    found = optimized(prune=PRUNE, recover=DISTIL, metric=lambda session: float(next(scores)))
    assert not found.report.stages[-1].changed and "the metric falls" in found.report.stages[-1].summary


@pytest.mark.parametrize(("options", "words"), [
    ({"recover": "distil"}, "give prune= or quantize="), ({"recover": "magic", "prune": 0.5}, "expected .distil."),
    ({"recover": {"step": 1}, "prune": 0.5}, "did you mean steps"),
    ({"recover": "distil", "prune": 0.5, "calibration": None}, "give calibration="),
])  # fmt: skip
def test_what_cannot_be_recovered_is_one_line(options, words):
    with pytest.raises(OptionError, match=words) as error:
        graphopt.optimize(wide(), **{"calibration": {"x": X}, **options})
    assert "\n" not in str(error.value)


@pytest.fixture
def files(tmp_path):
    onnx.save(network(0.3), tmp_path / "student.onnx")
    onnx.save(network(), tmp_path / "teacher.onnx")
    np.savez(tmp_path / "data.npz", x=X)
    return tmp_path


def run(*words: object) -> None:
    cli.app([str(word) for word in words], standalone_mode=False)


OPTIONS = [part for name, value in SHORT.items() for part in ("--option", f"{name}={value}")]


def test_the_command_does_what_the_function_does(files, capsys):
    given = ["--teacher", files / "teacher.onnx", "--calibration", files / "data.npz", "--json"]
    run("distil", files / "student.onnx", *given, *OPTIONS)
    told = json.loads(capsys.readouterr().out)
    expected = graphopt.distil(files / "student.onnx", files / "teacher.onnx", files / "data.npz", **SHORT)
    assert told["error_after"] == expected.report.error_after and told["improved"]
    made = onnx.load(files / "student.distilled.onnx")
    assert made.graph == expected.model.graph
    assert {p.key: p.value for p in made.metadata_props}["graphopt.result"] == "distilled"


def test_the_command_takes_labels(files, capsys):
    np.save(files / "labels.npy", (X[:, :3]).argmax(1))
    run("distil", files / "student.onnx", "--calibration", files / "data.npz", "--labels", files / "labels.npy",
        "-o", files / "out.onnx", *OPTIONS)  # fmt: skip
    assert "samples held out" in capsys.readouterr().out and (files / "out.onnx").is_file()


def test_the_command_prunes_and_recovers(files, capsys):
    onnx.save(wide(), files / "wide.onnx")
    words = [word if word != "--option" else "--recover-option" for word in OPTIONS]
    run("prune", files / "wide.onnx", "-r", "0.5", "--calibration", files / "data.npz", "--recover", "distil", *words)
    assert "recover" in capsys.readouterr().out and (files / "wide.pruned.onnx").is_file()


@pytest.mark.parametrize(("words", "expected"), [
    (["--option", "stepz=3"], "did you mean steps"), (["--option", "steps=many"], "steps takes a int"),
    (["--labels", "nowhere.npy"], "cannot be read"), ([], "give a teacher, or labels"),
])  # fmt: skip
def test_wrong_words_are_one_line(files, words, expected):
    with pytest.raises(graphopt.GraphoptError, match=expected):
        run("distil", files / "student.onnx", "--calibration", files / "data.npz", *words)
