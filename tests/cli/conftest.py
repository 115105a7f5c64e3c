"""The command line in this process: a new one takes a second each to import what it needs."""

from __future__ import annotations

import subprocess
import sys

import onnx
import pytest

from graphopt import cli
from tests.test_cli import small


@pytest.fixture
def graphopt_says(monkeypatch, capsys):
    """Run a command line as `graphopt` does: its exit code and what it said."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["graphopt", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            cli.main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, done.value.code, said.out, said.err)

    return run


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(small(), path)
    return path
