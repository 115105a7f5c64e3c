"""The pytest plugin, run by pytest; and a stranger's package that is built on it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest

import graphopt
from tests.test_cli import ROOT
from tests.test_optimize import conv_bn_model

pytest_plugins = ["pytester"]
NAME = "graphopt.pytest_plugin"


@pytest.fixture
def run_pytest(pytester, monkeypatch):
    """Run pytest in the temporary folder; what it needs is imported before, so that the runs share it."""
    graphopt.optimize(conv_bn_model())
    monkeypatch.setenv("PYTEST_ADDOPTS", "")

    def run(*args):
        done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", NAME, *args)
        return done.ret, done.outlines, "\n".join((*done.outlines, *done.errlines))

    return run


def test_it_is_declared():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'[project.entry-points.pytest11]\n"{NAME}" = "{NAME}"' in text


def test_loading_it_is_light():
    code = (
        "import sys, graphopt.pytest_plugin; print(sorted({'onnx', 'numpy', 'hypothesis', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_models_run_through_the_fixture(run_pytest, pytester):
    folder = pytester.path
    (folder / "models").mkdir()
    for name in ("first", "second"):
        onnx.save(conv_bn_model(), folder / "models" / f"{name}.onnx")
    pytester.makepyfile(
        test_it="""
        import graphopt
        def test_equal(model, assert_equivalent):
            result = graphopt.optimize(model, validate=False)
            assert_equivalent(model, result.model, min_power=0.5)
        def test_other(model):
            assert model.suffix == ".onnx"
        """
    )
    code, _, text = run_pytest("--graphopt-models", "models/*.onnx", "-v")
    assert code == 0 and "test_equal[first]" in text and "4 passed" in text
    code, _, text = run_pytest("-rs")
    assert code == 0 and "2 skipped" in text and "--graphopt-models" in text
    code, _, text = run_pytest("--graphopt-models", "absent/*.onnx")
    assert code == 4 and "absent/*.onnx" in text
    pytester.makeini("[pytest]\ngraphopt_models = models/first.onnx\n")
    assert "2 passed" in run_pytest()[2]


def test_a_difference_fails_with_the_comparison(run_pytest, pytester):
    pytester.makepyfile(
        test_it="""
        from tests.test_optimize import conv_bn_model
        def test_it(assert_equivalent):
            a, b = conv_bn_model(), conv_bn_model()
            b.graph.node[1].attribute[0].f = 0.5
            assert_equivalent(a, b)
        """
    )
    code, _, text = run_pytest()
    assert code == 1 and "not equivalent" in text and "allowed" in text


def test_a_model_fixture_of_ones_own_wins(run_pytest, pytester):
    pytester.makepyfile(
        test_it="""
        import pytest
        @pytest.fixture
        def model():
            return 3
        def test_it(model):
            assert model == 3
        """
    )
    assert "1 passed" in run_pytest()[2]


def test_golden_texts(run_pytest, pytester, monkeypatch):
    folder = pytester.path
    onnx.save(conv_bn_model(), folder / "m.onnx")
    pytester.makepyfile(
        test_it="""
        import os, graphopt
        def test_it(golden):
            golden(graphopt.optimize("m.onnx", validate=False, skip=os.environ.get("SKIP", "").split()))
            golden("m.onnx", "original")
        """
    )
    code, _, text = run_pytest()
    assert code == 1 and "--update-golden" in text
    assert run_pytest("--update-golden")[0] == 0
    kept = sorted(path.name for path in (folder / "golden").iterdir())
    assert kept == ["test_it.test_it.original.txt", "test_it.test_it.txt"]
    assert "BatchNormalization" in (folder / "golden" / kept[0]).read_text()
    assert "BatchNormalization" not in (folder / "golden" / kept[1]).read_text()
    assert run_pytest()[0] == 0
    monkeypatch.setenv("SKIP", "fold-batchnorm")
    code, _, text = run_pytest()
    assert code == 1 and "+  %b0 = BatchNormalization" in text


STRANGER = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "stranger"
version = "1.0"
dependencies = ["graphopt"]

[project.entry-points."graphopt.passes"]
halve-twice = "stranger:halve_twice"

[tool.setuptools]
py-modules = ["stranger"]
""",
    "stranger.py": '''
from graphopt.rewrite import any_value, constant, op, rule


@rule(op.Mul(op.Mul(any_value("x"), constant("a", equals=0.5)), constant("b", equals=0.5)))
def halve_twice(build, x, a):
    """(x / 2) / 2 = x / 4"""
    return build.Mul(x, a * a)
''',
    "test_stranger.py": """
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import graphopt


def halved_twice():
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    nodes = [helper.make_node("Mul", ["x", "half"], ["h"]), helper.make_node("Mul", ["h", "half"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [half])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_it_fires_and_stays_equal(assert_equivalent, golden):
    before = halved_twice()
    result = graphopt.optimize(before, passes=["halve-twice"])
    assert result.report.after.operators == {"Mul": 1}
    assert_equivalent(before, result.model)
    golden(result)
""",
    "golden/test_stranger.test_it_fires_and_stays_equal.txt": """graph g(%x: f32[N,3]) {
  %y = Mul(%x, @1=f32[](0.25)) : f32[N,3]
  return %y
}
""",
}


@pytest.mark.skipif(find_spec("setuptools") is None, reason="no setuptools to build a package with")
def test_a_strangers_package_works_after_pip_install(tmp_path):
    """A fresh environment that sees this one's packages; the stranger's is built and installed there, offline."""
    source = tmp_path / "source"
    for name, text in STRANGER.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = str(next(path for path in (tmp_path / "env").glob("*/python*") if path.is_file()))
    here = sysconfig.get_paths()["purelib"]
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    (site / "outer.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", str(source)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert (site / "stranger.py").is_file()
    (source / "stranger.py").unlink()  # the installed one is meant
    named = any(point.name == NAME for point in entry_points(group="pytest11"))  # an older install may lack it
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *([] if named else ["-p", NAME])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
    listed = [python, "-m", "graphopt", "passes"]
    done = subprocess.run(listed, capture_output=True, text=True, cwd=source, env=environment)
    assert "halve-twice" in done.stdout, done.stdout + done.stderr
