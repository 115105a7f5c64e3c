"""One list of options: each field of `graphopt.options` has its keyword at `optimize` and its option at the command."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from onnx import parser

import graphopt
from graphopt import api, cli
from graphopt.errors import OptionError
from graphopt.options import Options
from models.fashion import accuracy

METRIC = ["--metric", "models.fashion:accuracy"]


@dataclass(frozen=True)
class Given:
    """How one field is given: a keyword of `optimize` with a value, and words of the command or why there are none."""

    keyword: str
    value: Any
    words: list[str] | str


GIVEN = {
    "target.runtime": Given("target", "onnxruntime", ["--target", "onnxruntime"]),
    "target.input_shapes": Given("input_shapes", {"x": (1, None)}, ["--input-shape", "x:1,?"]),
    "target.dims": Given("dims", {"N": 2}, ["--dim", "N=2"]),
    "target.opset": Given("opset", 18, ["--opset", "18"]),
    "schedule.passes": Given("passes", ["fold-pads"], ["--passes", "fold-pads"]),
    "schedule.skip": Given("skip", ["fold-pads"], ["--skip", "fold-pads"]),
    "schedule.add": Given("add_passes", ("widen-channels",), ["--add-pass", "widen-channels"]),
    "compression.quantize": Given("quantize", "dynamic", ["--quantize", "dynamic"]),
    "compression.prune": Given("prune", 0.25, ["--prune", "0.25"]),
    "compression.precision": Given("precision", "float16", ["--precision", "float16"]),
    "compression.recover": Given("recover", "distil", ["--recover", "distil"]),
    "compression.calibration": Given("calibration", Path("x.npz"), ["--calibration", "x.npz"]),
    "compression.preprocess": Given("preprocess", "unit", ["--preprocess", "unit"]),
    "compression.metric": Given("metric", accuracy, METRIC),
    "compression.max_drop": Given("max_drop", 0.5, ["--max-drop", "0.5"]),
    "validation.validate": Given("validate", False, "--check off says the same"),
    "validation.check": Given("check", "each", ["--check", "each"]),
    "validation.repros": Given("repros", Path("found"), ["--repros", "found"]),
    "validation.on_blame": Given("on_blame", print, "a function; --repros writes what it would be called with"),
    "output.path": Given(
        "output", "out.onnx", "the argument OUT, which the command writes itself, if it is no dry run"
    ),
    "output.provenance": Given("provenance", True, ["--provenance"]),
    "seed": Given("seed", 7, ["--seed", "7"]),
}
NO_FIELD = {
    "model": "what is optimised",
    "recipe": "gives the fields their values",
    "executor": "where work runs: it changes nothing of the result",
    "progress": "a listener: it changes nothing of the result",
}
"""Parameters of `optimize` that are no options."""
OF_THE_COMMAND = {
    "source": "what is optimised",
    "destination": "the output's path",
    "output": "the output's path",
    "kind": "the name of an exact result, which commands with other defaults give",
    "force": "what may be replaced",
    "as_json": "how the result is told",
    "verbose": "how much is told",
    "quiet": "how much is told",
    "quantize_option": "a field of graphopt.Quantize",
    "recover_option": "a field of graphopt.Distil",
    "sensitivity": "a field of graphopt.Quantize",
    "precision_option": "a field of graphopt.Float16",
    "prune_option": "a field of graphopt.Prune",
    "recipe": "gives the fields their values",
    "workers": "where work runs",
    "scheduler": "where work runs",
    "save_recipe": "what is done with the result",
    "report": "what is done with the result",
    "provenance_beside": "what is done with the result",
    "save_as_external_data": "what is done with the result",
    "allow_unverified": "the exit code",
    "dry_run": "what is done with the result",
}
"""Parameters of the command that stand for no field of their own."""


class Asked(Exception):
    """Carries the options, in place of a run."""


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Options]:
    """The options behind a call of `optimize`, or behind words of the command line."""

    def ask(model: Any, options: Options, progress: Any = None, recipe: Any = None, executor: Any = None) -> None:
        raise Asked(options)

    def asked(*words: str, **keywords: Any) -> Options:
        with pytest.raises(Asked) as caught:
            if keywords:
                graphopt.optimize("model.onnx", **keywords)
            else:
                cli.app(["optimize", "model.onnx", str(tmp_path / "out.onnx"), *words], standalone_mode=False)
        found = caught.value.args[0]
        assert isinstance(found, Options)
        return found

    monkeypatch.setattr(api, "optimize_as", ask)
    return asked


def flat(options: Options) -> dict[str, Any]:
    """Every field by group and name."""
    values = {}
    for group in fields(options):
        held = getattr(options, group.name)
        if is_dataclass(held):
            values |= {f"{group.name}.{field.name}": getattr(held, field.name) for field in fields(held)}
        else:
            values[group.name] = held
    return values


def changed(options: Options) -> dict[str, Any]:
    """The fields that are not at their defaults."""
    usual = flat(Options())
    return {name: value for name, value in flat(options).items() if value != usual[name]}


def test_no_option_is_forgotten():
    assert set(flat(Options())) == set(GIVEN)
    keywords = [given.keyword for given in GIVEN.values()] + [*NO_FIELD]
    assert sorted(keywords) == sorted(inspect.signature(graphopt.optimize).parameters)
    spoken = {word for given in GIVEN.values() if isinstance(given.words, list) for word in given.words}
    command = typer.main.get_command(cli.app).commands["optimize"]  # type: ignore[attr-defined]
    silent = {p.name for p in command.params if not spoken & {*p.opts}}
    assert silent == set(OF_THE_COMMAND)


@pytest.mark.parametrize("field", GIVEN)
def test_a_keyword_sets_its_field(field, options):
    given = GIVEN[field]
    needed = {"metric": accuracy} if given.keyword == "max_drop" else {}
    found = changed(options(**{given.keyword: given.value}, **needed))
    assert set(found) == {field} | {f"compression.{name}" for name in needed}
    expected = {
        "quantize": graphopt.Quantize("dynamic"),
        "prune": graphopt.Prune(0.25),
        "precision": graphopt.Float16(),
        "recover": graphopt.Distil(),
    }
    assert found[field] == expected.get(given.keyword, given.value)


@pytest.mark.parametrize("field", [field for field, given in GIVEN.items() if isinstance(given.words, list)])
def test_the_command_sets_what_the_keyword_sets(field, options):
    given = GIVEN[field]
    needed = {"metric": accuracy} if given.keyword == "max_drop" else {}
    words = [*METRIC, *given.words] if needed else given.words
    assert changed(options(*words)) == changed(options(**{given.keyword: given.value}, **needed))


TEXTS = ("true", "false", "16", "60", "0.5", "int8", "uint8", "mse", "qoperator", "sqnr", "one,two", "some.file")
"""One of these is another value than the default for each option of quantization."""
NO_WORD = {
    "mode": "--quantize gives it",
    "executor": "an object that runs calibration, not a value",
    "layers": "a mapping: --recipe holds one",
}


@pytest.mark.parametrize("name", [field.name for field in fields(graphopt.Quantize) if field.name not in NO_WORD])
def test_every_field_of_quantize_can_be_given_as_a_word(name, options):
    mode = "weights" if name == "bits_per_weight" else "static"  # of which it is a budget
    usual = getattr(graphopt.Quantize(mode), name)
    for text in TEXTS:
        try:
            found = options("--quantize", mode, "--quantize-option", f"{name}={text}").compression.quantize
        except OptionError:
            continue
        if getattr(found, name) != usual:
            assert graphopt.Quantize(mode, **{name: getattr(found, name)}) == found
            return
    pytest.fail(f"no text gives {name} another value than {usual}")


@pytest.mark.parametrize("name", NO_WORD)
def test_what_is_no_word_is_refused_as_one(name, options):
    with pytest.raises(OptionError, match=f"no option is named {name}"):
        cli.app(["optimize", "m.onnx", "--quantize", "static", "--quantize-option", f"{name}=x"], standalone_mode=False)


def test_sensitivity_is_a_field_of_quantize(options):
    assert options("--quantize", "static", "--sensitivity").compression.quantize.sensitivity


@pytest.mark.parametrize("keywords", [
    {"dims": {"batch": "12"}}, {"dims": {"batch": 1.5}}, {"dims": {"batch": True}}, {"dims": [("batch", 1)]},
    {"input_shapes": {"x": "12x3"}}, {"input_shapes": {"x": ("12", 3)}}, {"input_shapes": {"x": (1.0, 3)}},
    {"input_shapes": {"x": 3}}, {"input_shapes": [("x", (1, 3))]},
])  # fmt: skip
def test_sizes_that_are_no_numbers_are_refused(keywords):
    (name,) = keywords
    with pytest.raises(OptionError, match=f"^{name} are .*, as {{.*}}, got ") as error:
        graphopt.optimize("no-such-file.onnx", **keywords)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keywords", [{"dims": {"N": np.int64(3)}}, {"input_shapes": {"x": np.array([3, 2])}}])
def test_sizes_of_numpy_are_numbers(keywords):
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, M] x) => (float[N, M] y) {y = Relu(x)}'
    )
    graph = graphopt.optimize(model, **keywords).model.graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3


KINDS = [
    ({"output": 5}, "path of a file"), ({"passes": "fold-constants"}, "list of passes"), ({"passes": 5}, "list"),
    ({"skip": "fold-constants"}, "list of passes"), ({"skip": 5}, "list"), ({"opset": "17"}, "number of a version"),
    ({"opset": 17.5}, "number of a version"), ({"seed": "a"}, "whole number"), ({"seed": -1}, "whole number"),
    ({"validate": "each"}, "True or False"), ({"target": None}, "not one of portable"),
    ({"check": 5}, "not one of end"), ({"progress": 5}, "function"),
]  # fmt: skip


@pytest.mark.parametrize("keywords,expected", KINDS)
def test_options_of_another_kind_are_refused_in_a_line(keywords, expected):
    (name,) = keywords
    with pytest.raises(OptionError, match=f"^{name} .*{expected}") as error:
        graphopt.optimize("no-such-file.onnx", **keywords)
    assert "\n" not in str(error.value)
