"""`graphopt edit` at the command line: what it writes, what it exits with, and what it leaves alone."""

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper

from graphopt import cli
from graphopt.errors import OptionError, OutputError
from tests.surgery.nets import X, net, run


@pytest.fixture
def path(tmp_path):
    onnx.save(net(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def edit(*words):
    return cli.app(["edit", *map(str, words)], standalone_mode=False)


def test_several_edits_in_one_go(path, capsys):
    out = path.with_name("out.onnx")
    edit(path, "-o", out, "--rename", "x=image", "--drop-output", "mean", "--strip", "all", "--rename", "scores=s")
    text = capsys.readouterr().out
    assert "image: f32[N,3,8,8]" in text and "equal, 4 samples" in text and f"wrote {out}" in text
    edited = onnx.load(out)
    np.testing.assert_array_equal(run(edited, {"image": X})["s"], run(net(), {"x": X})["scores"])
    assert not edited.metadata_props and [o.name for o in edited.graph.output] == ["s"]


def test_a_part_goes_beside_the_model(path):
    np.savez(path.with_suffix(".npz"), x=X)
    edit(path, "--from", "r", "--to", "scores", "--inputs", path.with_suffix(".npz"))
    assert [i.name for i in onnx.load(path.with_suffix(".edited.onnx")).graph.input] == ["r"]


def test_weights_go_out_and_come_back(tmp_path):
    model = net()
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((128, 3, 3, 3), np.float32), "w"))
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.ones((128, 5), np.float32), "m"))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    onnx.save(model, tmp_path / "m.onnx")
    edit(tmp_path / "m.onnx", "-o", tmp_path / "out.onnx", "--external", "--strip", "docs")
    assert (tmp_path / "out.onnx").stat().st_size < 2000 < (tmp_path / "out.onnx.data").stat().st_size
    edit(tmp_path / "out.onnx", "-o", tmp_path / "back.onnx", "--inline")
    back = onnx.load(tmp_path / "back.onnx", load_external_data=False)
    assert all(not t.external_data for t in back.graph.initializer)
    np.testing.assert_array_equal(run(back, {"x": X})["scores"], run(model, {"x": X})["scores"])


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [(["--rename", "x"], OptionError, "old=new"), (["--rename", "x=a", "--rename", "x=b"], OptionError, "twice"),
     (["--drop-output", "score"], OptionError, "did you mean scores"), (["-o", "m.onnx"], OutputError, "model itself"),
     (["--strip", "nams"], OptionError, "did you mean names")],
)  # fmt: skip
def test_mistakes_are_one_line(words, error, text, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    before = path.read_bytes()
    with pytest.raises(error, match=text):
        edit("m.onnx", *words)
    assert path.read_bytes() == before and [*path.parent.iterdir()] == [path]


def test_what_cannot_be_compared_exits_with_3(path, capsys):
    model = net()
    model.graph.node.append(helper.make_node("Mystery", ["r"], ["q"], domain="own"))
    model.graph.output.append(helper.make_tensor_value_info("q", TensorProto.FLOAT, None))
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, path)
    try:
        code = edit(path, "--rename", "x=image")
    except typer.Exit as error:
        code = error.exit_code
    assert code == 3 and "unverified" in capsys.readouterr().err
    assert [*path.parent.iterdir()] == [path]
    edit(path, "--rename", "x=image", "--allow-unverified")
    assert path.with_suffix(".edited.onnx").exists()
