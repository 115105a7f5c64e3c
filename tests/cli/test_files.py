"""Files: default names, what is never replaced without being told to, pipes."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

import graphopt
from graphopt.cli.results import MARK, default_name, kind_in, kind_of
from tests.command import ROOT, cli
from tests.test_cli import one_line, small


def test_a_kind_is_the_end_of_the_name():
    quantize, prune = graphopt.Quantize, graphopt.Prune(0.3)
    for kind, given in {
        "opt": (None, None), "int8": (quantize("static"), None), "w8": (quantize("weights"), None),
        "int4": (quantize("weights", weight_type="int4"), None), "pruned": (None, prune),
        "int2": (quantize("weights", weight_type="int2"), None),
        "pruned.int8": (quantize("dynamic"), prune), "w4a8": (quantize("static", weight_type="int4"), None),
        "w2a4": (quantize("static", weight_type="int2", activation_type="int4"), None),
        "pruned.w8a4": (quantize("static", activation_type="uint4"), prune),
    }.items():  # fmt: skip
        assert kind_of(*given) == kind
        assert default_name(Path("a/m.v2.onnx"), kind) == Path(f"a/m.v2.{kind}.onnx")
    assert kind_of(None, None, "simplified") == "simplified" and default_name(Path("-"), "opt") == Path("-")


def test_default_names(model, tmp_path):
    for words in ((), ("simplify",), ("quantize", "--mode", "dynamic"), ("prune", "--ratio", "0.1")):
        command = (*words[:1], model, *words[1:])
        assert cli(*command).returncode == 0
        assert cli(*command).returncode == 0, "the same kind of result is replaced"
    written = {path.name for path in tmp_path.iterdir()} - {"m.onnx"}
    assert written == {"m.opt.onnx", "m.simplified.onnx", "m.int8.onnx", "m.pruned.onnx"}
    assert {kind_in(tmp_path / name) for name in written} == {"opt", "simplified", "int8", "pruned"}
    assert not onnx.load(model).metadata_props


def test_nothing_else_is_replaced_without_force(model, tmp_path):
    before = model.read_bytes()
    out = tmp_path / "out.onnx"
    one_line(cli(model, "-o", model), "is the model itself", "--force")
    (tmp_path / "link.onnx").symlink_to(model)
    one_line(cli(model, "-o", tmp_path / "link.onnx"), "is the model itself")
    onnx.save(small(2.0), out)
    other = out.read_bytes()
    assert cli(model, out, "--dry-run").returncode == 0 and out.read_bytes() == other
    assert cli(model, out).returncode == 0 and kind_in(out) == "opt", "it tells no kind, and was named"
    precious = out.read_bytes()
    one_line(cli("quantize", model, out, "--mode", "dynamic"), "another kind (opt, not int8)", "--force")
    assert out.read_bytes() == precious and model.read_bytes() == before
    assert cli(model, out).returncode == 0
    assert cli(out, "-o", out, "--force").returncode == 0 and kind_in(out) == "opt"
    assert [entry.key for entry in onnx.load(out).metadata_props] == [MARK]


def test_a_model_that_is_kept_as_it_was_tells_its_kind(tmp_path):
    """Its file is the original's own proto, with one entry more."""
    from dataclasses import replace

    from graphopt.cli.results import write

    result = graphopt.optimize(small())
    kept = replace(result, is_original=True)
    for kind in ("int8", "opt"):
        write(kept, tmp_path / "kept.onnx", kind, False)
        assert kind_in(tmp_path / "kept.onnx") == kind


@pytest.mark.parametrize("data", [b"", b"precious", b"\xff" * 40, b"\x72\xff\xff\xff\x7f", bytes(64)])
def test_files_that_are_no_models_tell_no_kind(data, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(data)
    assert kind_in(path) is None


def test_a_kind_is_read_beside_other_metadata(tmp_path):
    proto = small()
    helper.set_model_props(proto, {"author": "someone", MARK: "int8", "more": "x" * 5000})
    onnx.save(proto, tmp_path / "m.onnx")
    assert kind_in(tmp_path / "m.onnx") == "int8"


def test_pipes(model, tmp_path):
    command = [sys.executable, "-m", "graphopt", "-", "-o", "-"]
    done = subprocess.run(command, input=model.read_bytes(), capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (tmp_path / "from_pipe.onnx").write_bytes(done.stdout)
    assert [n.op_type for n in onnx.load(tmp_path / "from_pipe.onnx").graph.node] == ["MatMul", "Relu"]
    assert b"validated" in done.stderr and b"wrote to stdout" in done.stderr
    done = subprocess.run([*command[:3], "-"], input=b"no model", capture_output=True, cwd=ROOT)
    assert done.returncode == 2 and not done.stdout
    one_line(cli(model, "-o", "-", "--json"), "cannot both go to stdout")


def test_options_that_change_nothing_are_told(model, tmp_path):
    done = cli(
        model, "--calibration", "synthetic", "--metric", "models.fashion:accuracy", "--dry-run", "--provenance-beside"
    )
    assert done.returncode == 0
    notes = [line for line in done.stderr.splitlines() if not line.startswith("  ")]
    assert len(notes) == 2 and "--calibration, --metric: not used" in notes[0] and "--provenance-beside" in notes[1]
    done = cli(model, "--check", "off", "--repros", tmp_path / "r", "--dry-run")
    assert "--repros: not used" in done.stderr
