"""CONTRIBUTING.md is true: its rooms are those of the tree, and what its tables send a newcomer to is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.house.__main__ import contributing
from tests.house.tree import ROOT, standing

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of each row of the table under a heading."""
    table = TEXT.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


TASKS = dict(rows("you want to add …"))


def test_rooms_are_those_of_the_tree():
    tree, advice = standing(), "run python -m tests.house --write, read what it wrote, and commit it"
    assert contributing(TEXT, tree) == TEXT, advice
    listed = {cells[0].strip("`") for cells in rows("room")}
    assert {"graphopt/ir", "passes", "passes/clean", "kernels"} <= listed
    assert {f"graphopt/{place[0]}" for place, m in tree.modules.items() if m.folder.startswith("graphopt/")} <= listed


def test_folders_beside_the_package_exist():
    folders = [name for cells in rows("beside the package") for name in re.findall(r"`([^`]+)`", cells[0])]
    assert len(folders) > 5 and all((ROOT / folder).is_dir() for folder in folders)


def test_every_module_that_a_command_names_exists():
    commands = re.findall(r"python -m (tests[\w.]*)", TEXT)
    assert len(commands) > 5
    for name in commands:
        path = ROOT / Path(*name.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name


def test_the_glossary_is_in_order():
    words = [cells[0] for cells in rows("word")]
    assert len(words) > 20 and words == sorted(set(words), key=str.lower)


def test_sixteen_tasks_are_told():
    assert len(TASKS) == 16


@pytest.mark.parametrize("task", TASKS)
def test_what_a_task_is_sent_to_exists(task):
    """Paths exist, and each name that follows one is defined in that file."""
    path, gone, names = None, [], 0
    for token in re.findall(r"`([^`]+)`", TASKS[task]):
        if "/" in token:
            path = ROOT / token
            gone += [] if path.exists() else [token]
        elif re.fullmatch(r"[A-Za-z_][\w.]*", token):
            names += 1
            assert path is not None, f"{token}: of which file?"
            known = path.suffix == ".py" and path.exists() and token in defined(path)
            gone += [] if known else [f"{path.relative_to(ROOT)}: {token}"]
    assert names and not gone, f"{task}: there is no {', no '.join(gone)}"


@cache
def defined(path: Path) -> set[str]:
    """Names at the top of a file, with those of its classes as Class.name."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        own = bound(node)
        names |= own
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner}" for statement in node.body for inner in bound(statement)}
    return names


def bound(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return set()
