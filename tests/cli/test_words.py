"""Commands that people guess, options that stand first, near misses, and completion."""

import json
import os
import sys
from unittest import mock

import onnx
import pytest

import graphopt
from graphopt.cli.routing import routed
from graphopt.errors import OptionError
from tests.command import cli, process
from tests.test_cli import one_line

COMMANDS = ("optimize", "verify", "bench")


@pytest.mark.parametrize(("typed", "meant"), [
    ("m.onnx", "optimize m.onnx"), ("m.onnx -o out", "optimize m.onnx -o out"), ("a/m", "optimize a/m"),
    ("- -o out", "optimize - -o out"), ("-q m.onnx", "optimize -q m.onnx"),
    ("--quantize int8 m.onnx", "optimize --quantize int8 m.onnx"), ("-q verify a b", "verify -q a b"),
    ("verify a b -v", "verify a b -v"), ("--version", "--version"), ("-h", "-h"), ("", ""),
])  # fmt: skip
def test_a_model_alone_is_optimised_and_options_may_come_first(typed, meant):
    assert routed(typed.split(), COMMANDS) == meant.split()


def test_a_word_that_is_nothing_names_the_closest_command():
    with pytest.raises(OptionError, match=r"'optimise' is neither .* \(did you mean optimize\?\)"):
        routed(["optimise", "m.onnx"], COMMANDS)
    assert routed(["opt"], COMMANDS, strict=False) == ["opt"]


def test_version_help_and_the_short_forms(model, tmp_path):
    assert cli("--version").stdout == f"graphopt {graphopt.__version__}\n"
    for words in ((), ("-h",), ("--help",)):
        done = cli(*words)
        assert done.returncode == 0 and "quantize" in done.stdout and "--version" in done.stdout
    assert "--metric" in cli("quantize", "-h").stdout
    done = cli(model, "-o", tmp_path / "o.onnx")
    assert done.returncode == 0 and [n.op_type for n in onnx.load(tmp_path / "o.onnx").graph.node] == ["MatMul", "Relu"]
    assert "3 → 2 nodes" in done.stdout.splitlines()[0]


def test_mistakes_of_usage_are_one_line(model):
    one_line(cli("optimise", model), "did you mean optimize?")
    one_line(cli("optimize", model, "--quantise", "int8"), "--quantise", "--quantize", "graphopt optimize --help")
    one_line(cli("optimize"), "MODEL")
    one_line(cli("optimize", model, "--opset", "x"), "--opset", "integer")
    one_line(cli("passes", model, "--trace", "fold-batchnrm"), "did you mean fold-batchnorm?")
    one_line(cli("quantize", model, "--mode", "dinamic"), "did you mean dynamic?")
    one_line(cli("quantize", model, "--mode", "FP16"), "FP16")
    one_line(cli(model, "out", "-o", "other"), "name two files")


def test_commands_with_other_defaults(tmp_path, monkeypatch):
    from graphopt import api
    from graphopt import cli as command_line

    class Asked(Exception):
        pass

    def ask(source, options, progress=None, recipe=None, executor=None):
        raise Asked(options)

    def asked(*words):
        with pytest.raises(Asked) as caught:
            command_line.app([*map(str, words)], standalone_mode=False)
        return caught.value.args[0]

    monkeypatch.setattr(api, "optimize_as", ask)
    monkeypatch.chdir(tmp_path)
    assert asked("quantize", "m.onnx").compression.quantize == graphopt.Quantize("static")
    assert asked("quantize", "m.onnx", "--mode", "INT4").compression.quantize.weight_type == "int4"
    assert asked("quantize", "m.onnx", "--prune", "0.2").compression.prune.ratio == 0.2
    assert asked("prune", "m.onnx").compression.prune.ratio == 0.3
    assert asked("prune", "m.onnx", "-r", "0.1").compression.prune.ratio == 0.1
    simple = asked("simplify", "m.onnx")
    assert not simple.compression.is_wanted and "merge-products" in simple.schedule.skip
    assert asked("m.onnx") == asked("optimize", "m.onnx")


def test_a_metric_in_a_file(tmp_path, model):
    from graphopt.cli.common import function_of

    (tmp_path / "beside.py").write_text("VALUE = 3.0\n")
    (tmp_path / "mine.py").write_text("from beside import VALUE\n\n\ndef accuracy(session):\n    return VALUE\n")
    assert function_of(f"{tmp_path / 'mine.py'}:accuracy")(None) == 3.0
    assert str(tmp_path) not in sys.path
    assert function_of("models.fashion:accuracy").__name__ == "accuracy"
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for text, words in (
        (f"{tmp_path / 'mine.py'}:acuracy", "did you mean accuracy"), (f"{tmp_path / 'no.py'}:f", "there is no file"),
        (f"{tmp_path / 'broken.py'}:f", "ZeroDivisionError"), ("accuracy", "file.py:function"), ("no.such:f", "no"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=words) as error:
            function_of(text)
        assert "\n" not in str(error.value)


def asking(*words):
    """How bash asks what the last of the words may become."""
    line = " ".join(("graphopt", *words))
    return {"_GRAPHOPT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}


def complete(*words):
    with mock.patch.dict(os.environ, asking(*words)):
        return cli().stdout.split()


def test_the_shell_completes_commands_options_and_choices():
    with mock.patch.dict(os.environ, asking("qu")):
        assert process().stdout.split() == ["quantize"]
    assert "--quantize-option" in complete("optimize", "m.onnx", "--quan")
    assert complete("m.onnx", "--dry") == ["--dry-run"]
    assert complete("optimize", "m.onnx", "--quantize", "int") == ["int8", "int4"]
    assert complete("m.onnx", "--target", "onnx") == ["onnxruntime"]


def test_results_for_machines(model, tmp_path):
    other = tmp_path / "o.onnx"
    told = {}
    for words in (
        ("optimize", model, other), ("verify", model, other), ("inspect", other), ("passes",), ("bisect", model),
        ("bench", model, "--seconds", "0.02"),
    ):  # fmt: skip
        done = cli(*words, "--json")
        assert done.returncode == 0, done.stderr
        told[words[0]] = json.loads(done.stdout)
    assert told["optimize"]["headline"].endswith("3 → 2 nodes · validated")
    assert told["optimize"]["output"] == str(other) and told["optimize"]["after"]["nodes"] == 2
    assert told["verify"]["status"] == "equal" and told["inspect"]["nodes"] == 2 and told["inspect"]["opsets"][""] == 17
    assert {"name", "exact"} <= {*told["passes"][0]} and told["bisect"]["findings"] == []
    assert told["bench"][0]["ratio"] == 1.0


def test_views_for_machines(model, tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    other = tmp_path / "o.onnx"
    assert cli("optimize", model, other, "--provenance").returncode == 0

    def told(*words):
        done = cli(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    found = told("diff", model, other)
    assert (found["before"]["nodes"], found["after"]["nodes"]) == (3, 2) and any("Identity" in t for t in found["text"])
    assert sum(n for ops in found["nodes"]["removed"].values() for n in ops.values()) == 1
    assert told("diff", model, other, "--no-text")["text"] == []
    assert told("explain", other)["kept"] == {"MatMul": 1, "Relu": 1}
    gone = told("explain", other, "nothing")["original"]
    assert gone["op"] == "Identity" and "removed by drop-identities" in gone["removed"]
    act = told("explain", other, "act")["nodes"][0]
    assert act["op"] == "Relu" and act["sources"] == {"act": "Relu"}
    profile = told("bench", model, other, "--profile")
    assert [m["model"] for m in profile["models"]] == ["m.onnx", "o.onnx"] and profile["beside"]
    assert all(k["seconds"] > 0 for m in profile["models"] for k in m["operators"])
    assert isinstance(told("warmup", model, "--seconds", "0.01"), list)
    layers = told("compare", model, other, "--layers")
    assert told("compare", model, other)["status"] == "equal" and layers["layers"][-1]["is_output"]
    edited = told("edit", model, "-o", tmp_path / "e.onnx", "--rename", "x=pixels")
    assert edited["status"] == "equal" and list(edited["inputs"]) == ["pixels"]


@pytest.mark.parametrize("words", [
    "recommend {absent}", "recommend {model} --calibration {absent}", "recommend {model} --max-drop 0.1",
    "recommend {model} --target gpu", "recommend {text}", "edit {absent}", "edit {text}", "edit {model} --rename x",
    "edit {model} --rename q=r", "edit {model} --from q", "edit {model} --to q", "edit {model} --drop-output q",
    "edit {model} --dims N=x=y=", "edit {model} --uint8 q", "edit {model} --uint8 x --scale a", "edit {model} --nms y",
    "edit {model} --output-as y=argmin", "edit {model} --opset 99", "edit {model} --strip wings",
    "edit {model} -o {model}", "edit {model} --inputs {absent}", "compare {model} {absent} --layers",
    "compare {model} {model} --report r.html", "compare {model} {model} --layers --report r.txt",
    "compare {model} {model} --layers --inputs {text}", "bench {absent} --profile", "bench {model} {text} --profile",
    "warmup {absent}", "warmup {text}", "diff {model} {absent}", "explain {model}", "quantize {model}",
    "prune {model} --ratio 2", "simplify {absent}", "optimize {model} --add-pass no-such-pass",
])  # fmt: skip
def test_bad_input_of_every_command_is_one_line(words, model, tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    before = model.read_bytes()
    places = {"model": model, "absent": tmp_path / "absent.onnx", "text": tmp_path / "text.onnx"}
    one_line(cli(*[word.format(**places) for word in words.split()]))
    assert model.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {"m.onnx", "text.onnx"}
