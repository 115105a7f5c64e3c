"""The tree keeps its promises: floors, rooms, sources of numbers, links, instant import."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.__main__ import main
from tests.house.numbers import unexplained
from tests.house.rules import RULES, House, arrows_up, circles, crowded, long_files, needless, undeclared
from tests.house.tree import ROOT, Tree


@pytest.fixture(scope="module")
def house():
    return House()


@pytest.mark.parametrize("rule", RULES)
def test_the_house_is_in_order(rule, house):
    offences = RULES[rule](house)
    assert not offences, f"{rule} (python -m tests.house shows the house):\n" + "\n".join(offences)


def test_numbers_have_a_source(house):
    numbers = unexplained(house.tree)
    assert not numbers, "say what each is and which command finds it anew:\n" + "\n".join(map(str, numbers))


def test_types_are_checked_but_for_what_numba_compiles(house):
    """Loops are typed by Numba, from what the kernels declare; `mypy -p graphopt` checks all the rest of kernels/."""
    silent = [module for module in house.tree.modules.values() if "mypy: ignore-errors" in module.text]
    assert silent, "this test no longer finds how files silence mypy"
    wrong = [module.file for module in silent if not module.file.startswith("kernels/loops/")]
    assert not wrong, f"mypy says nothing about {', '.join(wrong)}"
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "ignore_errors" not in settings and "follow_imports" not in settings


def test_the_tree_is_read_whole(house):
    places = {(), ("api",), ("ir", "graph"), ("passes",), ("passes", "clean"), ("kernels",)}
    assert places <= set(house.tree.modules) and len(house.tree.modules) > 300
    links = {(arrow.source.name, arrow.target.name) for arrow in house.tree.arrows}
    assert {("api", "options"), ("options", "passes/prune"), ("ir", "ir/graph")} <= links and len(links) > 1000


def test_the_command_prints_the_house(capsys):
    main([])
    text = capsys.readouterr().out
    for words in ("graphopt/ir ", "passes/clean", "arrows up:", "circles of files:", "longest file"):
        assert words in text
    main(["--constants"])
    assert "numbers without a source" in capsys.readouterr().out


# -- the rules themselves, on a small house in which each is broken


def build(root: Path, **files: str) -> House:
    for name, text in {"graphopt": '"""Top."""', "graphopt/low": '"""Low."""', **files}.items():
        folder = root / name
        path = folder / "__init__.py" if '"""' in text.partition("\n")[0] else folder.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return House(
        Tree(root), floors=(("low",), ("high", "other")), rooms={"high": ("first", "second")}, allowed={}, long={}
    )


ROOMS = {"graphopt/high": '"""High."""', "graphopt/high/first": '"""1."""', "graphopt/high/second": '"""2."""'}


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("low/a", "from ..high import b"),
        ("low/a", "def f():\n    import graphopt.high.b"),
        ("low/a", "if TYPE_CHECKING:\n    from ..high.b import X"),
        ("low/a", "from graphopt import high"),
        ("low/a", "from .. import optimize"),
        ("high/first/a", "from ..second import X"),
        ("high/first/a", "from .. import b"),
        ("high/first/a", "from .. import something_of_its_init"),
    ],
)
def test_an_arrow_up_is_seen(place, text, tmp_path):
    house = build(tmp_path, **ROOMS, **{"graphopt/high/b": "", "graphopt/other": '"""O."""', f"graphopt/{place}": text})
    (line,) = arrows_up(house)
    assert line.startswith(f"graphopt/{place}.py:{2 if chr(10) in text else 1} imports ")
    assert not undeclared(house) and not circles(house)


def test_arrows_down_and_beside_are_none(tmp_path):
    beside = {"graphopt/other": '"""O."""\nfrom ..high import b', "graphopt/high/second/a": "from ..first import X"}
    house = build(tmp_path, **ROOMS, **beside, **{"graphopt/high/b": "from .second import a\nfrom ..low import a"})
    assert not any(check(house) for check in RULES.values())


def test_circles_are_seen(tmp_path):
    files = {
        "a": "from .b import X",
        "b": "def f():\n    from . import c",
        "c": "if TYPE_CHECKING:\n    from .a import X",
    }
    house = build(tmp_path, **{f"graphopt/low/{name}": text for name, text in files.items()})
    (line,) = circles(house)
    assert sorted(line.split(" -> ")[1:]) == ["low/a", "low/b", "low/c"]
    packages = {"graphopt/high/b": "from ..other import a", "graphopt/other": '"""O."""', "graphopt/other/a": ""}
    house = build(tmp_path / "2", **ROOMS, **packages, **{"graphopt/other/c": "from ..high import first"})
    assert circles(house) == ["high -> other -> high, as packages"]


def test_undeclared_crowded_long_and_needless_are_seen(tmp_path):
    many = {f"graphopt/low/m{i}": "x = 1" for i in range(15)}
    extra = {"graphopt/high/third": '"""3."""', "graphopt/new": "", "graphopt/low/long": "x = 1\n" * 400}
    house = build(tmp_path, **ROOMS, **many, **extra)
    assert undeclared(house) == [
        "graphopt/high/third: ROOMS['high'] does not say where third stands",
        "graphopt/new.py: FLOORS does not say which floor new is on",
        "FLOORS: there is no /other",
    ]
    assert crowded(house) == ["graphopt/low: 16 files"]
    assert long_files(house) == ["graphopt/low/long.py: 401 lines"]
    excused = House(house.tree, house.floors, house.rooms, {("low", "high"): "?"}, {"graphopt/low/m1.py": "?"})
    assert needless(excused) == ["LONG: graphopt/low/m1.py", "ALLOWED: low -> high"]


def test_numbers_without_a_source_are_seen(tmp_path):
    lines = [
        "A = 1", "", "B = 2", '"""Said."""', "C = -3 * K  # said", "# said", "D = (1, 2.5)", "E = {'x': 1}", "",
        "F: int = 1 << 20", "G = 7", '"""Said of G alone."""', "NAME = 'x'", "lower = 3", "FLAG = True",
        "H = np.float32(1)", "I = Size(4, 6)",
    ]  # fmt: skip
    house = build(tmp_path, **{"graphopt/low/a": "\n".join(lines)})
    assert [number.name for number in unexplained(house.tree)] == ["A", "F", "H"]


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


def test_exact_passes_do_without_onnxruntime():
    code = "import sys, graphopt.passes; print(sorted({'onnx', 'onnx_ir', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


SHOWN = str(ROOT / "models" / "fashion_cnn.onnx")
HEAVY = {"numpy", "onnx", "onnx_ir", "onnxruntime", "networkx", "numba", "scipy", "jinja2"}


@pytest.mark.parametrize(
    ("words", "loaded"),
    [
        (["--help"], set()),
        (["inspect", SHOWN], {"numpy", "onnx"}),
        (["inspect", SHOWN, "--json"], {"numpy", "onnx"}),
        (["diff", SHOWN, SHOWN], {"numpy", "onnx"}),
        (["passes"], {"numpy"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_that_show_load_what_they_need(words, loaded):
    code = (
        "import sys; from graphopt.cli import main; sys.argv[0] = 'graphopt'\ntry: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout
    modules = done.stderr.split()
    assert HEAVY & {*modules} == loaded
    rooms = {name.split(".")[1] for name in modules if name.startswith("graphopt.")}
    assert "cli" in rooms and not rooms & {"calibration", "equivalence", "runtime", "kernels"}


def test_one_import_reaches_all_that_users_call():
    """In a fresh interpreter: what other tests imported before would hide a name that only they brought."""
    code = "import graphopt; [getattr(graphopt, name) for name in graphopt.__all__]; graphopt.testing.assert_equivalent"
    subprocess.run([sys.executable, "-c", code], check=True)
