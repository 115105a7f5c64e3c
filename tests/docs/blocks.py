"""Run the code blocks of a documentation page in order, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from graphopt import cli
from graphopt.errors import GraphoptError

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"# file: (\S+)\n")
_INSTALLS = ("python -m venv", "pip install", ". .venv/", "cd ")
"""Lines that set up an environment; continuous integration runs them in a fresh one."""
MINE = """
from models import fashion

DATA = [part[:500] for part in fashion.load("holdout")]

def accuracy(session):
    return fashion.top1(session, *DATA)
"""
"""The metric of pages: on a quarter of the images of `fashion.accuracy`."""
DATA = "fashion_calibration.npz"
FEW = 48
"""Images of the calibration data that pages name: what they show holds for few, too, in less time."""


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each block of a page."""
    for match in _BLOCK.finditer(page.read_text()):
        yield match[1], match[2]


def run(page: Path) -> int:
    """Run every block of a page in the current folder; returns how many commands and scripts ran."""
    space = assumed()
    count = 0
    for language, text in blocks(page):
        if language == "sh":
            count += sum(command(line) for line in text.splitlines() if line.strip())
        elif language == "python":
            named = _NAME.match(text)
            if named is not None:
                Path(named[1]).write_text(text)
                continue
            exec(compile(text, f"{page.name}", "exec"), space)
            count += 1
        elif language == "toml" and sys.version_info >= (3, 11):
            import tomllib

            tomllib.loads(text)
    return count


def assumed() -> dict[str, Any]:
    """Names that scripts of pages use without defining them: the caller's data and metric."""
    with np.load("samples.npz") as archive:
        samples = {name: archive[name] for name in archive.files}
    reader = [{name: array[i : i + 1] for name, array in samples.items()} for i in range(8)]
    given = {
        "samples": samples,
        "reader": reader,
        "feeds": reader[0],
        "accuracy": runpy.run_path("mine.py")["accuracy"],
    }
    return {"__name__": "__main__", **given}


def command(line: str) -> bool:
    """Run one shell line; False for one that only sets up an environment. A comment `# exit N` expects that code."""
    expected = int(found[1]) if (found := re.search(r"# exit (\d)", line)) else 0
    line = line.partition("  #")[0].strip()
    if line.startswith("#") or line.startswith(_INSTALLS):
        return False
    program, *words = shlex.split(line)
    assert program in ("graphopt", "python"), f"not a command of this project: {line}"
    code = _graphopt(words) if program == "graphopt" else _python(words)
    assert code == expected, f"{line}: exit code {code}, not {expected}"
    return True


def _graphopt(words: list[str]) -> int:
    if words[0] == "warmup" and not Path("cache").exists():
        with pytest.MonkeyPatch.context() as patch:  # its verdicts are not for other tests
            Path("cache").mkdir()
            patch.setenv("GRAPHOPT_CACHE", str(Path("cache").resolve()))
            return _graphopt(words)
    try:
        result = cli.app(words, standalone_mode=False)
    except (GraphoptError, typer.Exit) as error:
        return getattr(error, "exit_code", 2)
    return result if isinstance(result, int) else 0


def _python(words: list[str]) -> int:
    if words[0] != "-m":
        runpy.run_path(words[0], run_name="__main__")
        return 0
    if words[1] != "pytest":
        assert (ROOT / Path(*words[1].split("."))).with_suffix(".py").is_file(), f"there is no module {words[1]}"
        return 0  # a benchmark or a script that fills caches: too long for a test
    plugin = ["-p", "graphopt.pytest_plugin", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "pytest", *plugin, *words[2:]], env=environment, capture_output=True)
    print(done.stdout.decode(), done.stderr.decode())
    return done.returncode


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[None]:
    """Change to a folder with the files that pages name: models, samples, a metric in mine.py."""
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "models").mkdir()
    for path in (ROOT / "models").iterdir():
        (folder / "models" / path.name).symlink_to(path)
    (folder / "models" / DATA).unlink()
    (folder / "model.onnx").write_bytes((ROOT / "models" / "fashion_cnn.onnx").read_bytes())
    (folder / "quantized.onnx").write_bytes((ROOT / "models" / "fashion_qdq.onnx").read_bytes())
    with np.load(ROOT / "models" / DATA) as archive:
        for name, count in (("samples.npz", 16), (f"models/{DATA}", FEW)):
            np.savez(folder / name, **{key: archive[key][:count] for key in archive.files})
    (folder / "mine.py").write_text(MINE)
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(ROOT)]
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
