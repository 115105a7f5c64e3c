"""Files that belong together are optimised in one call, and what lies beside them goes along."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

import graphopt
from graphopt.cli import app
from graphopt.errors import InputError, OptionError, OutputError
from tests.passes.harness import parse

RELU = "g (float[N,4] x) => (float[a,b] y) <float[4,4] w> { r = Relu(x)\n i = Identity(r)\n y = MatMul(i, w) }"
GATE = "g (float[N,4] x, float[N,4] z) => (float[a,b] y) { r = Relu(x)\n t = Relu(r)\n y = Mul(t, z) }"


@pytest.fixture
def pair(tmp_path):
    """An encoder with weights beside it, a decoder in a folder of its own, and a configuration."""
    source = tmp_path / "pair"
    (source / "decoder").mkdir(parents=True)
    onnx.save(parse(RELU), source / "encoder_model.onnx", save_as_external_data=True, location="encoder.data",
              size_threshold=0)  # fmt: skip
    onnx.save(parse(GATE), source / "decoder" / "decoder_model.onnx")
    (source / "genai_config.json").write_text(json.dumps({"model": {"filename": "decoder/decoder_model.onnx"}}))
    (source / ".cache").mkdir()
    (source / ".cache" / "token").write_text("not copied")
    return source


def same(first, second):
    """Both files compute the same by the same names."""
    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (first, second)]
    names = [[v.name for v in s.get_inputs()] for s in sessions]
    assert names[0] == names[1]
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((3, 4)).astype(np.float32) for name in names[0]}
    for a, b in zip(*(s.run(None, feeds) for s in sessions)):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_every_model_is_optimised_and_every_other_file_copied(pair, tmp_path):
    done = graphopt.optimize_folder(pair, tmp_path / "out")
    assert list(done.reports) == ["decoder/decoder_model.onnx", "encoder_model.onnx"] and not done.is_unverified
    assert done.copied == ("genai_config.json",)
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()) == [
        "decoder/decoder_model.onnx", "encoder_model.onnx", "encoder_model.onnx.data", "genai_config.json",
    ]  # fmt: skip
    for name in done.reports:
        same(pair / name, tmp_path / "out" / name)
        assert len(onnx.load(tmp_path / "out" / name).graph.node) == 2


def test_a_model_may_have_options_of_its_own(pair, tmp_path):
    graphopt.optimize_folder(pair, tmp_path / "out", each={"decoder_model": {"passes": ()}})
    counts = [len(onnx.load(p).graph.node) for p in sorted((tmp_path / "out").rglob("*.onnx"))]
    assert counts == [3, 2]


def test_wrong_folders_are_told_in_one_line(pair, tmp_path):
    with pytest.raises(OptionError, match="each: encoder: not in the folder, which has decoder_model, encoder_model"):
        graphopt.optimize_folder(pair, tmp_path / "out", each={"encoder": {}})
    for output in (pair, pair / "within"):
        with pytest.raises(OptionError, match="is the folder of the models, or in it"):
            graphopt.optimize_folder(pair, output)
    with pytest.raises(InputError, match="is no folder"):
        graphopt.optimize_folder(pair / "genai_config.json", tmp_path / "out")
    with pytest.raises(InputError, match="holds no file with the suffix"):
        graphopt.optimize_folder(pair / ".cache", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("")
    with pytest.raises(OutputError, match="is not empty"):
        graphopt.optimize_folder(pair, tmp_path / "full")
    graphopt.optimize_folder(pair, tmp_path / "full", force=True)
    assert (tmp_path / "full" / "kept").exists() and (tmp_path / "full" / "encoder_model.onnx").exists()


def test_the_command_takes_a_folder(pair):
    run = CliRunner().invoke(app, ["optimize", str(pair)])
    assert run.exit_code == 0, run.output
    assert "encoder_model.onnx" in run.output and "copied 1 other files" in run.output
    assert (pair.parent / "pair.opt" / "genai_config.json").exists()
    refused = CliRunner().invoke(app, ["optimize", str(pair), "--dry-run"])
    assert refused.exit_code != 0
    told = CliRunner().invoke(app, ["optimize", str(pair), "-o", str(pair.parent / "second"), "--json"])
    assert set(json.loads(told.stdout)["models"]) == {"decoder/decoder_model.onnx", "encoder_model.onnx"}
