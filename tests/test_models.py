"""The committed models and texts load, check and run; the classifier is as accurate as its README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from models import fashion, make_small
from tests import generators, nets, zoo

FOLDER = Path(fashion.__file__).parent
FILES = ("fashion_cnn", "fashion_qdq", "transformer_block")


def session(model: Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def assert_runs(running: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    outputs = running.run(None, feeds)
    assert outputs
    for output in outputs:
        assert output.size
        assert np.isfinite(output).all()
    return outputs


@pytest.mark.parametrize("name", FILES)
def test_committed_models_pass_the_checker(name: str) -> None:
    onnx.checker.check_model(onnx.load(FOLDER / f"{name}.onnx"), full_check=True)


def test_committed_files_are_small() -> None:
    assert 1_000_000 < sum(file.stat().st_size for file in FOLDER.rglob("*") if file.suffix != ".pyc") < 6_000_000


@pytest.mark.parametrize("name", ["fashion_cnn", "fashion_qdq"])
def test_classifiers_are_accurate(name: str) -> None:
    running = session(FOLDER / f"{name}.onnx")
    assert fashion.test_accuracy(running) >= 0.91
    assert fashion.accuracy(running) >= 0.91


def test_classifier_keeps_its_batch_norms_and_its_symbolic_batch() -> None:
    graph = onnx.load(FOLDER / "fashion_cnn.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("BatchNormalization") == kinds.count("Conv") > 0
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert sum(np.prod(t.dims) for t in graph.initializer) > 80_000


def test_calibration_is_ready_to_feed() -> None:
    with np.load(FOLDER / "fashion_calibration.npz") as archive:
        assert archive.files == ["image"]
        images = archive["image"]
    assert images.shape == (512, 1, 28, 28)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    assert_runs(session(FOLDER / "fashion_cnn.onnx"), {"image": images[:3]})


def test_calibration_holdout_and_test_share_no_image() -> None:
    with np.load(FOLDER / "fashion_calibration.npz") as archive:
        sets = [archive["image"]]
    sets += [fashion.load(kind)[0] for kind in ("holdout", "test")]
    seen = [{image.tobytes() for image in images} for images in sets]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (4, 16), (3, 64)])
def test_transformer_runs_and_ignores_masked_tokens(batch: int, length: int) -> None:
    running, rng = session(FOLDER / "transformer_block.onnx"), np.random.default_rng(0)
    ids = rng.integers(0, make_small.VOCABULARY, (batch, length))
    mask = np.ones_like(ids)
    mask[:, length // 2 + 1 :] = 0
    (first,) = assert_runs(running, {"input_ids": ids, "attention_mask": mask})
    other = np.where(mask == 1, ids, 0)
    (second,) = assert_runs(running, {"input_ids": other, "attention_mask": mask})
    kept = mask.astype(bool)
    np.testing.assert_allclose(first[kept], second[kept], rtol=1e-4, atol=1e-5)


def test_transformer_is_what_its_script_makes() -> None:
    assert make_small.transformer().SerializeToString() == (FOLDER / "transformer_block.onnx").read_bytes()


@pytest.mark.parametrize("variant", [0, 1, 2])
@pytest.mark.parametrize("name", nets.NAMES)
def test_texts_run(name: str, variant: int) -> None:
    model = nets.load(name, seed=variant)
    assert_runs(session(model), nets.feeds(model, variant, variant))


def test_texts_are_seeded() -> None:
    assert nets.load("residual", 1).SerializeToString() == nets.load("residual", 1).SerializeToString()
    assert nets.load("residual", 1).SerializeToString() != nets.load("residual", 2).SerializeToString()


def test_if_takes_both_branches() -> None:
    model = nets.load("if")
    running = session(model)
    signs = {bool((running.run(None, nets.feeds(model, seed, 1))[0] < 0).any()) for seed in range(20)}
    assert signs == {False, True}  # Relu on one side, Tanh on the other


@pytest.mark.parametrize("nodes", [1, 29, 30, 1_000])
def test_chains_have_the_length_asked_for(nodes: int) -> None:
    model = generators.chain(nodes)
    assert len(model.graph.node) == nodes
    onnx.checker.check_model(model)
    rng = np.random.default_rng(0)
    assert_runs(session(model), {"x": rng.standard_normal((2, 8, 4, 4), np.float32)})


def test_external_weights_are_sparse_and_differ(tmp_path: Path) -> None:
    path = generators.external_model(tmp_path / "model.onnx", gigabytes=0.02, side=1024)
    data = path.with_name("model.onnx.data").stat()
    assert data.st_size == 5 * 4 * 1024**2
    assert data.st_blocks * 512 < data.st_size / 10
    weights = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    assert len({w.tobytes() for w in weights}) == 5
    assert_runs(session(path), {"x": np.ones((2, 1024), np.float32)})


@zoo.parametrize()
def test_zoo_runs_with_its_feeds(name: str) -> None:
    path = zoo.path(name)
    assert path is not None
    running = session(path)
    for variant in zoo.variants(name):
        assert_runs(running, zoo.feeds(name, seed=variant, variant=variant))


@pytest.mark.parametrize("name", zoo.COVERED)
def test_covered_models_have_no_operators_of_their_own(name: str) -> None:
    folder = Path(onnx.__file__).parent
    here, there = (onnx.load(folder / zoo.BY_NAME[each].member) for each in (name, zoo.COVERED[name]))
    own = {node.op_type for node in here.graph.node}
    assert "Conv" in own and own <= {node.op_type for node in there.graph.node}


@zoo.parametrize(*(name for name in zoo.names() if name.startswith("light-")), "mobilenetv2-like")
def test_generated_weights_let_the_input_choose_the_class(name: str) -> None:
    path = zoo.path(name)
    assert path is not None
    running = session(path)
    outputs = [running.run(None, zoo.feeds(name, seed))[0].ravel() for seed in range(100, 106)]
    assert len({int(output.argmax()) for output in outputs}) >= 3
    assert all(0 < np.abs(output).max() < 100 for output in outputs)


@pytest.mark.parametrize(("ci", "outcome"), [("true", "failed"), ("", "skipped")])
def test_an_absent_model_is_skipped_with_a_reason_and_fails_in_ci(ci: str, outcome: str, tmp_path: Path) -> None:
    test = "from tests import zoo\n\n@zoo.parametrize('magika')\ndef test_it(name): assert zoo.path(name).is_file()\n"
    (tmp_path / "test_absent.py").write_text(test)
    environment = {**os.environ, "CI": ci, "GRAPHOPT_ZOO": str(tmp_path), "PYTHONPATH": str(FOLDER.parent)}
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert f"1 {outcome}" in done.stdout and "python -m tests.zoo" in done.stdout, done.stdout


def test_an_incomplete_zoo_is_named_and_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAPHOPT_ZOO", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    for name in set(zoo.names()) - {"magika"}:
        (tmp_path / f"{name}.onnx").touch()
    assert zoo.main(["--list"]) == 1
    assert capsys.readouterr().err == "missing: magika of magika==1.0.3: not fetched\n"
    monkeypatch.setattr(zoo, "_obtain_package", refuse)
    assert zoo.main([]) == 1
    assert "missing: magika of magika==1.0.3: OSError: no network" in capsys.readouterr().err
    (tmp_path / "magika.onnx").touch()
    assert zoo.main(["--list"]) == 0


def refuse(source: str, entries: list[zoo.Entry]) -> None:
    raise OSError("no network")
