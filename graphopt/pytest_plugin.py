"""The pytest plugin: fixtures to test models and passes with. It loads nothing heavy before a fixture is used.

def test_my_pass(model, assert_equivalent, golden):
    result = graphopt.optimize(model, passes=["my-pass"])
    assert_equivalent(model, result.model)
    golden(result)
"""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .equivalence import Comparison
    from .ir import Graph


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--graphopt-models` (also in the ini file) and `--update-golden`."""
    group = parser.getgroup("graphopt")
    models = "ONNX files or patterns such as models/*.onnx for the `model` fixture; repeatable"
    group.addoption("--graphopt-models", action="append", default=[], metavar="PATH", help=models)
    group.addoption("--update-golden", action="store_true", help="write the golden IR texts anew")
    parser.addini("graphopt_models", models, type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Register the `model` fixture over the models that the options name."""
    patterns: list[str] = [*config.getoption("--graphopt-models"), *config.getini("graphopt_models")]
    paths = _expand(patterns, Path(config.rootpath))
    config.pluginmanager.register(_offer_models(paths), "graphopt-models")


def _expand(patterns: list[str], root: Path) -> list[Path]:
    """The files of paths and patterns relative to `root`. UsageError for a pattern without a file."""
    paths: dict[Path, None] = {}
    for pattern in patterns:
        matches = sorted(Path(p) for p in glob.glob(str(root / pattern), recursive=True))
        if not matches:
            raise pytest.UsageError(f"--graphopt-models {pattern!r}: there is no such file")
        paths.update(dict.fromkeys(matches))
    return list(paths)


def _offer_models(paths: list[Path]) -> ModuleType:
    """A plugin with the `model` fixture, parametrized at run time; a test's own `model` fixture takes precedence."""
    skip = pytest.mark.skip(reason="no models: give --graphopt-models PATH")
    models = [pytest.param(path, id=path.stem) for path in paths] or [pytest.param(None, id="no-models", marks=skip)]

    @pytest.fixture(params=models)
    def model(request: pytest.FixtureRequest) -> Path:
        """The path of each model that `--graphopt-models` names."""
        path: Path = request.param
        return path

    plugin = ModuleType("graphopt_models")
    plugin.model = model  # type: ignore[attr-defined]
    return plugin


@pytest.fixture
def assert_equivalent() -> Callable[..., Comparison]:
    """`graphopt.testing.assert_equivalent(a, b, …)`: the candidate b computes the results of the original a."""
    from .testing.equivalent import assert_equivalent as check

    return check


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`golden(subject, name="")`: assert that the IR text of a graph, model, result or file equals the golden file.

    The file is `golden/MODULE.TEST.txt` beside the test; `--update-golden` rewrites it.
    """
    folder = request.path.parent / "golden"
    stem = re.sub(r"[^\w.-]+", "-", f"{request.path.stem}.{request.node.name}").strip("-")
    update: bool = request.config.getoption("--update-golden")

    def check(subject: Any, name: str = "") -> None:
        __tracebackhide__ = True
        path = folder / (f"{stem}.{name}.txt" if name else f"{stem}.txt")
        text = subject if isinstance(subject, str) and "\n" in subject else _text(subject)
        if update:
            folder.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        if not path.is_file():
            pytest.fail(f"{path} is not there yet: run with --update-golden and read what it wrote")
        expected = path.read_text(encoding="utf-8")
        if text != expected:
            lines = difflib.unified_diff(expected.splitlines(), text.splitlines(), str(path), "now", lineterm="")
            pytest.fail("the IR text differs (--update-golden accepts it)\n" + "\n".join(lines), pytrace=False)

    return check


def _text(subject: Any) -> str:
    from .ir import to_text

    return to_text(_graph(subject), constants=True)


def _graph(subject: Any) -> Graph:
    from . import onnx_io
    from .ir import Graph, Model

    inner = getattr(subject, "ir", subject)  # a Result holds the IR
    if isinstance(inner, Graph):
        return inner
    return (inner if isinstance(inner, Model) else onnx_io.load(inner)).graph
