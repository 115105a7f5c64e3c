"""Recipes: a result is made again byte for byte, a changed choice is obeyed, and what is wrong is one line."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import graphopt
from graphopt import Recipe, cli
from graphopt.compress.choices import CHOICES
from graphopt.errors import InputError, ModelError, OptionError
from graphopt.recipe import MadeWith
from tests.recipe.nets import network, samples

LAYERS = ("first", "second", "third", "fourth")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return network()


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return samples()


def bytes_of(result: graphopt.Result) -> bytes:
    return result.model.SerializeToString(deterministic=True)


def operators(result: graphopt.Result) -> Counter[str]:
    return Counter(node.op_type for node in result.model.graph.node)


WAYS = {
    "exact": {},
    "static": {"quantize": {"mode": "static", "speed": False}},
    "timed": {"quantize": "static"},
    "dynamic": {"quantize": "dynamic"},
    "weights": {"quantize": "int4"},
    "narrow": {"quantize": {"mode": "static", "weight_type": "int4", "rounding": False}},
    "pruned": {"prune": {"ratio": 0.4, "round_to": 4}},
    "in two steps": {"prune": {"ratio": 0.4, "round_to": 4, "iterative_steps": 2, "recover": False}},
    "by cost": {"prune": {"macs": 0.6, "round_to": 1, "recover": False}, "quantize": "static"},
    "half": {"precision": "float16"},
    "partly half": {"precision": {"min_sqnr": 72.0}},
}


LONG = ("timed", "narrow", "in two steps", "by cost", "partly half", "dynamic", "weights")
"""Ways that take long, or show little more than another."""


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.slow if way in LONG else ()) for way in WAYS])
def test_a_result_is_made_again_byte_for_byte(way, model, data, tmp_path):
    first = graphopt.optimize(model, **WAYS[way], calibration=data if way != "exact" else None)
    first.recipe.save(tmp_path / "recipe.toml")
    read = Recipe.load(tmp_path / "recipe.toml")
    assert read.to_toml() == first.recipe.to_toml() and read.model.startswith("sha256:")
    again = graphopt.optimize(model, recipe=tmp_path / "recipe.toml", calibration=data if way != "exact" else None)
    assert bytes_of(again) == bytes_of(first)
    assert again.recipe.to_toml() == first.recipe.to_toml()
    assert way == "exact" or read.layers or read.channels
    assert not again.report.notes


def test_nothing_is_timed_where_every_layer_is_named(model, data, monkeypatch):
    recipe = graphopt.optimize(model, quantize="static", prune=0.4, calibration=data).recipe
    from graphopt.passes.prune import stage
    from graphopt.passes.quantize import decide

    def refuse(*args, **keywords):
        raise AssertionError("timed")

    monkeypatch.setattr(decide, "fastest", refuse)
    monkeypatch.setattr(stage, "_search", refuse)
    assert graphopt.optimize(model, recipe=recipe, calibration=data).report.is_lossy


def static(layers: dict[str, str]) -> Recipe:
    return Recipe(quantize=graphopt.Quantize("static"), layers=layers)


CODES = [f"{name}_codes" for name in "abcd"]
BITS = {TensorProto.FLOAT: 32, TensorProto.INT8: 8, TensorProto.INT4: 4}
GIVEN = {
    "four bits": dict.fromkeys(LAYERS, "weights4"),
    "eight bits": dict.fromkeys(LAYERS, "weights8"),
    "both": dict(zip(LAYERS, ("weights8", "weights4", "weights4", "float32"))),
    "three kinds": dict(zip(LAYERS, ("static int8", "weights4", "weights8", "static int8"))),
}


@pytest.mark.parametrize("mode", [None, "static", "weights"])
@pytest.mark.parametrize("given", GIVEN)
def test_each_layer_has_the_bits_that_were_named(mode, given, model, data):
    quantize = None if mode is None else graphopt.Quantize(mode)
    result = graphopt.optimize(model, recipe=Recipe(quantize=quantize, layers=GIVEN[given]), calibration=data)
    assert {name: result.recipe.layers[name] for name in LAYERS} == GIVEN[given]
    kinds = {t.name[0]: BITS[t.data_type] for t in result.model.graph.initializer if t.name in (*"abcd", *CODES)}
    widths = {"static int8": 8, "weights8": 8, "weights4": 4, "float32": 32}
    assert kinds == {name: widths[GIVEN[given][layer]] for name, layer in zip("abcd", LAYERS)}


@pytest.mark.parametrize(("mode", "rest"), [(None, 32), ("weights", 8)])
def test_what_is_not_named_is_as_without_the_choice(mode, rest, model, data):
    quantize = None if mode is None else graphopt.Quantize(mode, speed=False)
    result = graphopt.optimize(model, recipe=Recipe(quantize=quantize, layers={"second": "weights4"}), calibration=data)
    kinds = {t.name[0]: BITS[t.data_type] for t in result.model.graph.initializer if t.name in (*"abcd", *CODES)}
    assert kinds == {"a": rest, "b": 4, "c": rest, "d": rest}


def test_a_choice_is_obeyed(model, data):
    every = dict.fromkeys(LAYERS, "static int8")
    counts = {}
    for name in (None, "second", "fourth"):
        layers = every if name is None else {**every, name: "float32"}
        result = graphopt.optimize(model, recipe=static(layers), calibration=data)
        integers = (TensorProto.INT8, TensorProto.UINT8)
        counts[name] = sum(t.data_type in integers and len(t.dims) > 1 for t in result.model.graph.initializer)
        assert {k: v for k, v in result.recipe.layers.items() if k in LAYERS} == layers
    assert counts == {None: 4, "second": 3, "fourth": 3}


def test_modes_are_mixed(model, data):
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for node in model.graph.node:
        node.name = f"/net/{node.name}" if node.name else ""  # as exporters name them
    choices = {"first": "static int8", "second": "weights4", "third": "weights8", "fourth": "dynamic"}
    layers = {f"/net/{name}": choice for name, choice in choices.items()}
    recipe = static(layers)
    result = graphopt.optimize(model, recipe=recipe, calibration=data)
    types = Counter(t.data_type for t in result.model.graph.initializer if len(t.dims) > 1)
    assert types == {TensorProto.INT8: 3, TensorProto.INT4: 1}
    assert operators(result)["MatMulInteger"] == 1 and operators(result)["QuantizeLinear"] == 2
    assert {k: v for k, v in result.recipe.layers.items() if k in layers} == layers
    assert bytes_of(graphopt.optimize(model, recipe=result.recipe, calibration=data)) == bytes_of(result)


def test_half_and_integers_are_mixed(model, data):
    recipe = static({"first": "static int8", "second": "static int8", "third": "float16", "fourth": "float16"})
    result = graphopt.optimize(model, recipe=recipe, calibration=data)
    types = Counter(t.data_type for t in result.model.graph.initializer if len(t.dims) > 1)
    assert types == {TensorProto.INT8: 2, TensorProto.FLOAT16: 2}
    assert bytes_of(graphopt.optimize(model, recipe=result.recipe, calibration=data)) == bytes_of(result)


def test_one_choice_leaves_the_others_free(model, data):
    asked = graphopt.Quantize("static", speed=False, layers={"second": "float32"})
    result = graphopt.optimize(model, quantize=asked, calibration=data)
    assert result.recipe.layers["second"] == "float32"
    assert [result.recipe.layers[name] for name in ("first", "third", "fourth")] == ["static int8"] * 3
    asked = graphopt.Quantize("static", min_sqnr=200.0, layers={"second": "static int8"})
    result = graphopt.optimize(model, quantize=asked, calibration=data)
    assert {name for name, choice in result.recipe.layers.items() if choice != "float32"} == {"second"}


def test_widths_are_obeyed(model, data):
    result = graphopt.optimize(model, prune=graphopt.Prune(keep={"first": 11, "third": 20}), calibration=data)
    shapes = {tuple(t.dims) for t in result.model.graph.initializer if len(t.dims) == 4}
    assert shapes == {(11, 3, 3, 3), (20, 11, 3, 3), (20, 20, 3, 3)}
    assert result.recipe.channels == {"first": 11, "second": 20}


@pytest.mark.parametrize("keep, reason", [
    ({"first": 99}, "first: there are 16 channels, not 99"),
    ({"frist": 8}, "no channels are those of 'frist' .did you mean first"),
    ({"first": 0}, "0 is not a number of channels from 1 on"),
    ({"first": []}, "is not a number of channels"),
])  # fmt: skip
def test_widths_that_cannot_be_are_one_line(keep, reason, model):
    with pytest.raises(OptionError, match=reason) as error:
        graphopt.optimize(model, prune={"keep": keep})
    assert "\n" not in str(error.value)


TEXTS = {
    "[quantise]\nmode = 'static'": "there is no quantise .did you mean quantize",
    "[quantize]\nmod = 'static'": r"\[quantize\] has no key mod .did you mean mode",
    "[quantize]\nper_channel = 'yes'": r"\[quantize\] per_channel is bool, not 'yes'",
    "[quantize]\nlayers = {}": r"\[quantize\] has no key layers",
    "[prune]\nratio = '30 %'": r"\[prune\] ratio is float, not '30 %'",
    "[prune]\nevaluations = true": r"\[prune\] evaluations is int, not True",
    "[prune]\nratio = 2": r"\[prune\] prune: ratio 2 is not",
    "[layers]\nconv = 'int8'": r"\[layers\] conv: 'int8' is not one of static int8",
    "[layers]\nconv = 8": r"\[layers\] conv is str, not 8",
    "[channels]\nconv = 0": r"\[channels\] conv is a number of channels from 1 on, not 0",
    "seed = 'x'": "seed is int, not 'x'",
    "layers = 3": "layers is a table, .layers., not 3",
    "[target]\nruntime = 'tflite'": r"\[target\] target 'tflite' is not one of",
    "[data]\nmodle = 'x'": r"\[data\] has no key modle .did you mean model",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_wrong_line_is_named_by_table_and_key(text, tmp_path):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(OptionError, match=f"^recipe .*r.toml'?: .*{TEXTS[text]}") as error:
        Recipe.load(tmp_path / "r.toml")
    assert "\n" not in str(error.value)


def test_files_that_are_no_recipes_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read: No such file"):
        Recipe.load(tmp_path / "none.toml")
    (tmp_path / "r.toml").write_text("mode: static\n")
    with pytest.raises(InputError, match=r"is not TOML") as error:
        Recipe.load(tmp_path / "r.toml")
    assert "\n" not in str(error.value)


def test_names_and_numbers_of_any_kind_survive(tmp_path):
    names = ["a.b", 'quo"te', "tab\t", "ключ", "", "back\\slash", "\x7f"]
    recipe = Recipe(
        quantize=graphopt.Quantize("static", min_sqnr=-np.inf, percentile=99.9), seed=3,
        layers=dict(zip(names, CHOICES)), channels={"x.y": [3, 2]}, precision=graphopt.Float16(keep=("a b",)),
        recover=graphopt.Distil(steps=7), prune=graphopt.Prune(ratios={"c.d": 0.25}, recover=graphopt.Distil()),
        target=graphopt.options.Target(input_shapes={"x": (1, None, "n")}, dims={"d": 2}, opset=18),
    )  # fmt: skip
    recipe.save(tmp_path / "r.toml")
    read = Recipe.load(tmp_path / "r.toml")
    assert replace(read, target=recipe.target, channels=recipe.channels) == recipe
    assert read.to_toml() == recipe.to_toml() and read.target.input_shapes == {"x": [1, -1, "n"]}


def test_what_no_file_can_hold_is_one_line():
    with pytest.raises(OptionError, match=r"^recipe: prune: importance is a function, which no file can hold$"):
        Recipe(prune=graphopt.Prune(importance=lambda w: w)).to_toml()


def test_another_model_data_or_machine_is_told(model, data, tmp_path):
    recipe = graphopt.optimize(model, quantize="static", calibration=data).recipe
    other = onnx.ModelProto.FromString(model.SerializeToString())
    other.graph.initializer[0].raw_data = other.graph.initializer[0].raw_data[::-1]
    with pytest.raises(ModelError, match=r"^recipe: \[data\] model is sha256:\w+, and this is another model"):
        graphopt.optimize(other, recipe=recipe, calibration=data)
    with pytest.raises(OptionError, match=r"^recipe: the result was made from calibration data: give calibration="):
        graphopt.optimize(model, recipe=recipe)
    with pytest.raises(OptionError, match=r"^quantize is what the recipe says already"):
        graphopt.optimize(model, recipe=recipe, quantize="static", calibration=data)
    made = MadeWith({**recipe.made_with.versions, "numpy": "0.1"}, {**recipe.made_with.machine, "cores": 99})
    with pytest.warns(UserWarning, match="recipe: made"):
        result = graphopt.optimize(model, recipe=replace(recipe, made_with=made), calibration={"x": data["x"][:8]})
    told = [note for note in result.report.notes if note.startswith("recipe:")]
    assert len(told) == 2 and "numpy 0.1 there" in told[0] and "cores 99 there" in told[0]
    assert "other calibration data" in told[1]


def test_a_digest_is_of_the_content(model, tmp_path):
    onnx.save(model, tmp_path / "a.onnx")
    onnx.save(onnx.ModelProto.FromString(model.SerializeToString()), tmp_path / "b.onnx", save_as_external_data=True,
              size_threshold=0, location="b.data")  # fmt: skip
    digests = {graphopt.optimize(source).recipe.model for source in (model, tmp_path / "a.onnx", tmp_path / "b.onnx")}
    assert len(digests) == 1


def test_the_command_writes_and_reads_recipes(model, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(model, "m.onnx")
    np.savez("c.npz", **data)

    def run(*words: str) -> str:
        outcome = CliRunner().invoke(cli.app, ["optimize", "m.onnx", *words])
        assert outcome.exit_code in (0, 2), outcome.output
        return outcome.output + (str(outcome.exception) if outcome.exit_code else "")

    given = "--calibration", "c.npz"
    run("a.onnx", "--quantize", "static", "--quantize-option", "speed=false", *given, "--save-recipe", "r.toml")
    run("b.onnx", "--recipe", "r.toml", *given)
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    text = Path("r.toml").read_text()
    Path("r.toml").write_text(text.replace('third = "static int8"', 'third = "float32"'))
    assert Path("r.toml").read_text() != text
    run("c.onnx", "--recipe", "r.toml", *given)
    kinds = {t.name: t.data_type for t in onnx.load("c.onnx").graph.initializer}
    assert kinds["c"] == TensorProto.FLOAT and kinds.get("b") != TensorProto.FLOAT
    Path("r.toml").write_text(text.replace("third =", "thrid ="))
    with pytest.raises(OptionError, match=r"the model has no 'thrid' .did you mean third"):
        cli.app(["optimize", "m.onnx", "d.onnx", "--recipe", "r.toml", "--calibration", "c.npz"], standalone_mode=False)
    assert not Path("d.onnx").exists()


def recurrent(rng: np.random.Generator) -> onnx.ModelProto:
    """An If whose branches hold a product and an LSTM, behind a product."""

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) * 0.2).astype("f4"), name)

    info = helper.make_tensor_value_info
    then = helper.make_graph(
        [helper.make_node("LSTM", ["h", "w", "r"], ["z"], "lstm", hidden_size=32),
         helper.make_node("Reshape", ["z", "shape"], ["t"], "flat")],
        "then", [], [info("t", TensorProto.FLOAT, None)],
        [tensor("w", 1, 128, 32), tensor("r", 1, 128, 32), numpy_helper.from_array(np.array([-1, 32]), "shape")],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Reshape", ["h", "rows"], ["f"], "rows"),
         helper.make_node("MatMul", ["f", "m"], ["e"], "inner")],
        "other", [], [info("e", TensorProto.FLOAT, None)],
        [tensor("m", 32, 32), numpy_helper.from_array(np.array([-1, 32]), "rows")],
    )  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "outer"),
        helper.make_node("If", ["long"], ["y"], "choice", then_branch=then, else_branch=other),
    ]
    inputs = [info("x", TensorProto.FLOAT, [4, 2, 16]), info("long", TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", TensorProto.FLOAT, ["n", 32])], [tensor("a", 16, 32)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("floor", [15.0, 200.0])
def test_branches_and_recurrent_layers_are_in_a_recipe(floor):
    rng = np.random.default_rng(2)
    model = recurrent(rng)
    data = [{"x": rng.standard_normal((4, 2, 16)).astype("f4"), "long": np.array(i % 2 == 0)} for i in range(4)]
    quantize = graphopt.Quantize("weights", min_sqnr=floor, speed=False)
    first = graphopt.optimize(model, quantize=quantize, calibration=data)
    choices = first.recipe.layers
    assert {name.rpartition(": ")[2] for name in choices} == {"outer", "inner", "lstm"}
    assert set(choices.values()) == {"weights8" if floor < 100 else "float32"}
    again = graphopt.optimize(model, recipe=first.recipe, calibration=data)
    assert bytes_of(again) == bytes_of(first) and again.recipe.to_toml() == first.recipe.to_toml()
    other = replace(first.recipe, layers=dict.fromkeys(choices, "weights8"))
    changed = graphopt.optimize(model, recipe=other, calibration=data).recipe.layers
    assert changed == other.layers


def test_modes_of_layers_do_not_reach_into_branches():
    rng = np.random.default_rng(2)
    data = [{"x": rng.standard_normal((4, 2, 16)).astype("f4"), "long": np.array(i % 2 == 0)} for i in range(4)]
    free = graphopt.optimize(recurrent(rng), quantize={"mode": "static", "speed": False}, calibration=data).recipe
    names = {name.rpartition(": ")[2]: name for name in free.layers}
    layers = {names["outer"]: "weights8", names["inner"]: "float32"}
    result = graphopt.optimize(recurrent(np.random.default_rng(2)), recipe=static(layers), calibration=data)
    assert {name: result.recipe.layers[name] for name in layers} == layers
