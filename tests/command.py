"""The command line in this process: a new one takes more than a second to import what it needs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from unittest import mock

from graphopt.cli import main

ROOT = Path(__file__).resolve().parents[1]


def cli(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command line as `graphopt` does: its exit code and what it said, with what native libraries said."""
    with caught(1) as out, caught(2) as err, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with mock.patch.object(sys, "argv", ["graphopt", *map(str, words)]):
            try:
                main()
            except SystemExit as done:
                code = done.code
        said = [(file.seek(0), file.read())[1] for file in (out, err)]
    return subprocess.CompletedProcess(words, code, *said)


def process(*words: object) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, where that is what is tested."""
    command = [sys.executable, "-m", "graphopt", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@contextlib.contextmanager
def caught(number: int) -> Iterator[IO[str]]:
    """A file in place of descriptor 1 or 2."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        kept = os.dup(number)
        os.dup2(file.fileno(), number)
        try:
            yield file
        finally:
            os.dup2(kept, number)
            os.close(kept)
