"""Every argument of every public function, given values of wrong kinds: one line of an error of ours, or an answer."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

import graphopt
from graphopt import gradient, recommendation, rewrite, searching, testing
from graphopt.distillation import run as distilling
from graphopt.report import report as reporting

VALUES = (2, -1, float("nan"), "no such thing", [object()], {"a": object()}, None, object(), Path("no/such.onnx"))
NOT_CALLED = {
    *("Bisection", "Comparison", "Distilled", "Edited", "FolderResult", "Front", "Recommendation", "Report", "Result"),
    *("GraphoptError", "InputError", "ModelError", "OptionError", "OutputError"),
    "Pass",
    *("gradient", "rewrite", "testing"),
}
"""Names of `graphopt` that callers do not call: results, errors, a record of what `register_pass` makes, and modules,
whose functions of plain values are called one by one."""
Call = tuple[Callable[..., Any], dict[str, Any]]


class Begun(graphopt.GraphoptError):
    """Raised in place of minutes of work: all arguments passed."""


def begin(*given: Any, **named: Any) -> None:
    raise Begun("begun")


def model() -> onnx.ModelProto:
    return parser.parse_model("""
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N,3] x) => (float[N,2] y) <float[3,2] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) }""")


def calls(folder: Path) -> Iterator[Call]:
    """Each public function with arguments that it takes."""
    m, x = model(), np.ones((4, 3), np.float32)
    onnx.save(m, folder / "m.onnx")
    result, session, registry = graphopt.optimize(m), graphopt.Session(m), graphopt.Registry()
    yield graphopt.optimize, {"model": m}
    for comparing in (graphopt.compare, graphopt.compare_layers, testing.assert_equivalent):
        yield comparing, {"a": m, "b": m}
    for changing in (graphopt.edit, graphopt.bisect):
        yield changing, {"model": m}
    yield graphopt.optimize_folder, {"folder": folder, "output": folder / "out", "force": True}
    yield graphopt.search, {"model": m, "calibration": {"x": x}}
    yield graphopt.recommend, {"model": m}
    yield graphopt.distil, {"student": m, "teacher": m, "data": {"x": x}}
    for options in (graphopt.Quantize, graphopt.Prune, graphopt.Float16, graphopt.Distil, graphopt.Recipe):
        yield options, {}
    yield graphopt.Session, {"model": m}
    yield session.run, {"output_names": None, "feeds": {"x": x}}
    yield session.region_inputs, {"feeds": {"x": x}}
    for generating in (session.generate, session.tokens):
        yield generating, {"input_ids": [1], "max_new_tokens": 1}
    yield result.save, {"path": "o.onnx"}
    yield result.session, {}
    yield from ((told, {}) for told in (result.report.timed, result.report.to_html, result.report.to_markdown))
    yield result.report.save, {"path": "o.json"}
    yield graphopt.Recipe.load, {"path": "r.toml"}
    yield result.recipe.save, {"path": "r.toml"}
    yield result.recipe.options, {}
    yield result.recipe.check_model, {"digest": ""}
    yield result.recipe.notes, {"data": ""}
    yield graphopt.Registry, {}
    yield registry.register, {"item": None}
    yield registry.get, {"name": "fold-pads"}
    yield from ((listing, {"items": ()}) for listing in (registry.scheduled, registry.resolve))
    yield graphopt.register_pass, {"name": "mine"}
    yield from ((making, {"pattern": rewrite.op.Relu(rewrite.any_value())}) for making in (graphopt.rule, rewrite.rule))
    yield from ((leaf, {}) for leaf in (rewrite.any_value, rewrite.constant, rewrite.weight))
    yield rewrite.same, {"name": "x"}
    yield testing.random_graph, {"seed": 1}
    yield testing.graphs, {}
    yield testing.shrink, {"model": m, "fails": lambda piece: True}
    for training in (gradient.gradient_model, gradient.training_step, gradient.Trainer):
        yield training, {"model": m}
    yield gradient.fisher, {"model": m, "feeds": [{"x": x}]}
    yield gradient.slopes, {"model": m, "feeds": [{"x": x}], "names": ["w"]}
    yield gradient.predicted_losses, {"model": m, "feeds": [{"x": x}], "changes": {"w": np.ones((3, 2))}}
    for loss in (gradient.KL, gradient.CrossEntropy, gradient.SGD, gradient.Adam, gradient.AdamW):
        yield loss, {}


def answer(function: Callable[..., Any], given: dict[str, Any]) -> str:
    """What a call gives: "" for an answer or one line of an error of ours, else the fault."""
    alone = [n for n, p in inspect.signature(function).parameters.items() if p.kind is p.POSITIONAL_ONLY]
    named = {name: value for name, value in given.items() if name not in alone}
    try:
        made = function(*(given[name] for name in alone), **named)
        for _ in made if inspect.isgenerator(made) else ():
            pass
    except graphopt.GraphoptError as error:
        return "" if str(error) and "\n" not in str(error) else f"not one line: {error}"
    except AssertionError:
        return "" if function is testing.assert_equivalent else "AssertionError"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.filterwarnings("ignore")
def test_arguments_of_wrong_kinds_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(searching, "Workbench", begin)
    monkeypatch.setattr(recommendation.trial, "Workbench", begin)
    monkeypatch.setattr(distilling, "distil_model", begin)
    monkeypatch.setattr(reporting, "measure_latency", lambda trail, seconds: None)
    faults, seen = [], set()
    with graphopt.Registry():
        for function, given in calls(tmp_path):
            seen.add(function.__qualname__.partition(".")[0])
            assert answer(function, given) == "" or function.__name__ == "register", function
            for name, parameter in inspect.signature(function).parameters.items():
                if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    continue
                for value in VALUES:
                    fault = answer(function, {**given, name: value})
                    faults += [f"{function.__qualname__}({name}={value!r}): {fault}"] if fault else []
    assert not faults, "\n".join(faults)
    missing = {name for name in graphopt.__all__ if name not in seen | NOT_CALLED}
    assert not missing
