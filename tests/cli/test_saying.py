"""How much is said, and where: quiet, verbose, progress, tables in pipes, the log."""

import logging
import time

import onnx
import pytest

import graphopt
from graphopt.cli import console, progress
from tests.command import ROOT, cli
from tests.test_cli import small
from tests.test_optimize import conv_bn_model


def test_quiet_says_nothing_but_errors(model, tmp_path):
    done = cli("-q", model, "-o", tmp_path / "o.onnx")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and (tmp_path / "o.onnx").exists()
    done = cli("verify", model, tmp_path / "o.onnx", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = cli("-q", tmp_path / "absent.onnx")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_verbose_shows_details_and_the_log(tmp_path):
    words = (
        ROOT / "models" / "fashion_cnn.onnx",
        "--quantize",
        "weights",
        "--quantize-option",
        "speed=no",
        "--dry-run",
    )
    plain, full = cli(*words), cli(*words, "-v")
    assert plain.returncode == full.returncode == 0, plain.stderr + full.stderr
    assert "weight error" in plain.stdout and "J nearest" not in plain.stdout and "info:" not in plain.stderr
    assert "J nearest" in full.stdout and "worst pair" in full.stdout
    assert "info: fold-batchnorm: 13 changes" in full.stderr and "info: quantize weights:" in full.stderr


def test_names_are_whole_in_a_pipe(tmp_path):
    proto = small()
    name = "/encoder/layers.0/self_attention/" + "very_long_name/" * 20 + "MatMul"
    proto.graph.node[0].name = name
    onnx.save(proto, tmp_path / "m.onnx")
    out = tmp_path / f"{'long_' * 30}.onnx"
    done = cli(tmp_path / "m.onnx", "-o", out)
    assert f"wrote {out}\n" in done.stdout and "…" not in done.stdout
    done = cli("bench", tmp_path / "m.onnx", out, "--seconds", "0.02")
    assert f"{out} · onnxruntime" in done.stdout
    done = cli(
        tmp_path / "m.onnx", "--quantize", "weights", "--quantize-option", "speed=no", "--dry-run",
        "--quantize-option", "min_sqnr=-100",
    )  # fmt: skip
    assert name in done.stdout


def test_plain_lines_of_progress_come_after_a_while_and_only_where_something_is_new(monkeypatch, capsys):
    monkeypatch.setattr(progress, "AFTER", 0.01)
    console.settle(verbose=False, quiet=False)
    with progress.progress("bench") as tell:
        tell("open [a].onnx", 0.25)
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("  bench: open [a].onnx, 25% (")
    console.settle(verbose=False, quiet=True)
    with progress.progress("bench") as tell:
        tell("open", None)
        time.sleep(0.05)
    console.settle(verbose=False, quiet=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["optimize", "verify", "bisect", "bench", "warmup"])
def test_commands_tell_their_progress(command, monkeypatch, tmp_path):
    from contextlib import contextmanager

    import typer

    from graphopt import cli as command_line

    told = []

    @contextmanager
    def record(what):
        told.append(what)
        yield lambda step, share: told.append(step)

    for module in ("optimizing", "checking", "timing"):
        monkeypatch.setattr(getattr(command_line, module), "progress", record)
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    onnx.save(small(), "m.onnx")
    words = {"verify": ["m.onnx"], "bench": ["--seconds", "0.01"], "warmup": ["--seconds", "0.01"]}.get(command, [])
    try:
        command_line.app([command, "m.onnx", *words], standalone_mode=False)
    except typer.Exit as done:
        assert done.exit_code == 0
    assert told[0] == command
    steps = {"optimize": "validate", "bisect": "validate", "bench": "open m.onnx"}
    assert steps.get(command, command) in told


def test_the_log_is_pythons(caplog):
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("graphopt").handlers)
    with caplog.at_level(logging.INFO, logger="graphopt"):
        graphopt.optimize(conv_bn_model())
    texts = [record.getMessage() for record in caplog.records]
    assert any(text.startswith("fold-batchnorm: 3 changes, -3 nodes") for text in texts)
    assert texts[0].startswith("read 9 nodes") and texts[-1].startswith("equal on 4 samples")
    assert {record.name.partition(".")[0] for record in caplog.records} == {"graphopt"}


def test_warming_counts_the_kernels_it_compiles(monkeypatch, tmp_path):
    from graphopt.bench import warmup_timings

    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    told = []
    calls = []

    def warm(model, feeds, *, threads, seconds, progress):
        calls.append(model)
        for key in ("0a1b", "2c3d"):
            progress(key)
        return []

    monkeypatch.setattr("graphopt.runtime.warmup.warmup", warm)
    path = ROOT / "models" / "fashion_cnn.onnx"
    warmup_timings(path, threads=1, seconds=0.01, inputs=None, progress=lambda what, share: told.append(what))
    assert told == ["compile kernel 1", "compile kernel 2"] and calls == [str(path)]
