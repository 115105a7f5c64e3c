"""A stranger's installed package offers a pass: it is listed, and runs only when named."""

import sys

import pytest

import graphopt
from graphopt.pipeline import current, entry_points
from tests.test_optimize import conv_bn_model

CODE = '''
from graphopt.pipeline import graph_pass
from graphopt.rewrite import any_value, op, rule

@rule(op.Relu(any_value("x")))
def relu_as_max(build, x):
    """relu(x) = max(x, 0)"""
    import numpy as np
    return build.Max(x, np.float32(0))

broken = 3

import graphopt

@graphopt.register_pass("of-its-own", before="remove-dead-nodes")
def decorated(graph, context):
    """Turns Relu into itself: nothing changes."""
    return 0

def plain(graph):
    """Counts."""
    return 0
'''


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    name = f"stranger_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CODE)
    info = tmp_path / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"relu-as-max = {name}:relu_as_max", f"broken = {name}:broken", f"absent = {name}:absent"]
    lines += [f"decorated-one = {name}:decorated", f"plain-one = {name}:plain"]
    (info / "entry_points.txt").write_text("[graphopt.passes]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def test_found_and_listed_unloaded(stranger):
    assert {"relu-as-max", "broken"} <= {offered.name for offered in entry_points()}
    assert stranger not in sys.modules
    from graphopt.report.tables import passes_table

    assert "relu-as-max" in list(passes_table().columns[0].cells)
    assert stranger not in sys.modules


def test_runs_only_when_named(stranger):
    assert "Max" not in graphopt.optimize(conv_bn_model()).report.after.operators
    result = graphopt.optimize(conv_bn_model(), passes=["fold-batchnorm", "relu-as-max"])
    assert result.report.status == "equal"
    assert result.report.after.operators == {"Conv": 3, "Max": 3}
    assert current().get("relu-as-max").source == stranger


@pytest.mark.parametrize("name", ["broken", "absent"])
def test_what_cannot_be_loaded_is_one_line(stranger, name):
    with pytest.raises(graphopt.OptionError, match=r"is not a pass|cannot be loaded"):
        graphopt.optimize(conv_bn_model(), passes=[name])


@pytest.mark.parametrize("name", ["decorated-one", "plain-one"])
def test_functions_are_passes(stranger, name):
    found = current().get(name)
    assert found.name == name and found.source == stranger and found.exact
    assert (found.before == "remove-dead-nodes") == (name == "decorated-one")
    assert not any(item.name == "of-its-own" for item in current().schedule()), "it runs only when named"
    assert graphopt.optimize(conv_bn_model(), passes=[name], validate=False).report.rolled_back == ()


def test_a_pass_is_added_to_the_schedule(stranger):
    result = graphopt.optimize(conv_bn_model(), add_passes=["relu-as-max", "decorated-one"])
    assert result.report.after.operators == {"Conv": 3, "Max": 3} and result.report.status == "equal"
    names = [effect.name for effect in result.report.effects]
    assert names[names.index("decorated-one") + 1] == "remove-dead-nodes" and names[-1] == "relu-as-max"
    with pytest.raises(graphopt.OptionError, match="did you mean relu-as-max"):
        graphopt.optimize(conv_bn_model(), add_passes=["relu-as-mx"])
    with pytest.raises(graphopt.OptionError, match="passes="):
        graphopt.optimize(conv_bn_model(), passes=[], add_passes=["relu-as-max"])


@pytest.mark.parametrize("name", ["relu-as-max", "relu_as_max"])
def test_rules_of_packages_are_traced(stranger, name):
    from graphopt.report.tracing import trace_rule

    found = trace_rule(conv_bn_model(), name)
    assert found.by == "relu-as-max" and found.fired == {"relu_as_max": 3}
