"""Modules that are run by hand (benchmarks, makers of models and data) import, say how they are run, and cannot rot."""

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("graphopt", "tests", "models")
OPTIONAL = {"torch", "transformers", "gensim", "openvino", "onnxsim", "onnxslim", "optuna"}
"""Packages that no extra for tests brings: of the extras `bench` and `train`, and those that a docstring asks for."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


SOURCES = {
    name_of(path): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("tests", "models")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "__init__.py"
}
BENCHMARKS = [name for name in SOURCES if name.startswith("tests.bench.")]


def guarded(tree: ast.Module) -> str:
    """The source under `if __name__ == "__main__"`, "" where there is none."""
    guards = [node for node in tree.body if isinstance(node, ast.If) and "__name__ == '__main__'" in ast.unparse(node)]
    return "\n".join(ast.unparse(line) for guard in guards for line in guard.body)


COMMANDS = [name for name, tree in SOURCES.items() if guarded(tree)]
BY_HAND = sorted({*COMMANDS, *BENCHMARKS, *(name for name in SOURCES if name.startswith("models."))})


def imported_names(name: str) -> Iterator[tuple[str, str]]:
    """Module and attribute of every import of ours, also those inside functions."""
    for node in ast.walk(SOURCES[name]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] in OURS)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), name.rpartition(".")[0])
            if module.partition(".")[0] in OURS:
                yield from ((module, alias.name) for alias in node.names)


def has(module: str, attribute: str) -> bool:
    """The module exists, and the attribute in it; our scripts are read, not imported: their packages may be absent."""
    if module in SOURCES:
        names = {name for node in SOURCES[module].body for name in assigned(node)}
        return not attribute or attribute in names
    held = importlib.import_module(module)
    return not attribute or hasattr(held, attribute) or importlib.util.find_spec(f"{module}.{attribute}") is not None


def assigned(node: ast.stmt) -> set[str]:
    """Names that a statement at the top of a module brings into it."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def test_they_are_found():
    expected = {
        "tests.bench.end_to_end",
        "tests.zoo",
        "tests.house.__main__",
        "models.make_small",
        "tests.fuzz.nightly",
    }
    assert expected | {"tests.mutants.__main__", "tests.docs.__main__", "tests.data.make_exports"} <= set(COMMANDS)


@pytest.mark.parametrize("name", BY_HAND)
def test_it_imports(name):
    try:
        assert inspect.ismodule(importlib.import_module(name))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OPTIONAL:
            raise
        pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("name", BY_HAND)
def test_what_it_imports_of_ours_exists(name):
    """Also where the import stands in a function, or in a module whose optional packages are absent."""
    gone = [f"{module} {attribute}" for module, attribute in imported_names(name) if not has(module, attribute)]
    assert not gone, f"{name} imports what is not there: {', '.join(gone)}"


@pytest.mark.parametrize("name", COMMANDS)
def test_it_says_how_it_is_run(name):
    command = f"python -m {name.removesuffix('.__main__')}"
    assert command in (ast.get_docstring(SOURCES[name]) or ""), f"its docstring gives its command line: {command}"
    functions = [node.name for node in SOURCES[name].body if isinstance(node, ast.FunctionDef)]
    assert "main" in functions and "main(" in guarded(SOURCES[name])


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in COMMANDS and ".test_" not in name])
def test_what_is_no_command_serves_one(name):
    text = name.rpartition(".")[2]
    users = [other for other in BENCHMARKS if other != name and text in ast.unparse(SOURCES[other])]
    assert users and ast.get_docstring(SOURCES[name])
