"""The tree keeps its promises: floors, links, instant import."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = (
    ("errors",),
    ("ir", "machine"),
    ("ops",),
    ("rewrite", "onnx_io", "analysis"),
    ("equivalence", "calibration", "measure"),
    ("pipeline", "kernels"),
    ("runtime",),
    ("compress",),
    ("passes",),
    ("provenance",),
    ("options", "validation", "report", "testing", "pytest_plugin"),
    ("api", "bench", "bisection"),
    ("cli", "__main__"),
)
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
ALLOWED = {
    ("pipeline", "passes"),  # the registry reads the schedule
}


def modules():
    for path in sorted((ROOT / "graphopt").rglob("*.py")):
        yield path.relative_to(ROOT / "graphopt"), path
    for folder in ("passes", "kernels"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), path


def imported(relative: Path, tree: ast.AST):
    package = ("graphopt", *relative.parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            full = (*base, *(node.module.split(".") if node.module else ()))
            if full == ("graphopt",):
                yield from (("graphopt", alias.name) for alias in node.names)
            else:
                yield full
        elif isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)


def test_imports_go_down_only():
    wrong = []
    for relative, path in modules():
        here = relative.parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        assert here in FLOOR, f"{relative}: say in tests/test_architecture.py which floor it is on"
        for full in imported(relative, ast.parse(path.read_text())):
            if full[:1] != ("graphopt",) or len(full) < 2 or full[1] not in FLOOR or full[1] == here:
                continue
            if FLOOR[full[1]] > FLOOR[here] and (here, full[1]) not in ALLOWED:
                wrong.append(f"{relative} imports {'.'.join(full)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["passes", "kernels"])
def test_linked_folders_have_one_import_name(folder):
    link = ROOT / "graphopt" / folder
    assert link.is_symlink() and link.readlink() == Path("..") / folder
    assert importlib.import_module(f"graphopt.{folder}")
    done = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"import graphopt.{folder}" in done.stderr


def test_import_is_light():
    code = (
        "import sys, graphopt; heavy = {'onnx', 'onnx_ir', 'onnxruntime', 'networkx', 'numba', 'rich', 'typer'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_import_reaches_all_that_users_call():
    """In a fresh interpreter: what other tests imported before would hide a name that only they brought."""
    code = "import graphopt; [getattr(graphopt, name) for name in graphopt.__all__]; graphopt.testing.assert_equivalent"
    subprocess.run([sys.executable, "-c", code], check=True)
