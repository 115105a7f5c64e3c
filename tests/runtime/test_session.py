"""The Session: every integer tensor equals the numpy reference; results agree with onnxruntime's exact arithmetic."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt import onnx_io
from graphopt.ir import Graph, Node
from graphopt.runtime import Session
from graphopt.runtime.lower.decoders.products import PACKED
from graphopt.runtime.lower.lowering import has_codes
from graphopt.runtime.lower.qoperator import LOWERINGS
from tests import zoo
from tests.bench.quantized import quantized
from tests.runtime.forms import FORMS, feed
from tests.runtime.reference import check_regions

FASHION = Path(__file__).resolve().parents[2] / "models" / "fashion_qdq.onnx"


def exact_session(model: Any) -> Any:
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry("session.x64quantprecision", "1")
    settings.log_severity_level = 3
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])


def sqnr(found: Any, want: Any) -> float:
    noise = np.square(np.asarray(found, np.float64) - want).sum()
    return float("inf") if noise == 0 else float(10 * np.log10(np.square(np.asarray(want, np.float64)).sum() / noise))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_integer_equals_the_reference(made: dict[str, Path], form: str, threads: int) -> None:
    session = Session(made[form], threads=threads, kernels=True)
    assert session.covered >= 6, session.describe()
    assert check_regions(session, feed()).total() >= 10
    exact = exact_session(made[form])
    for seed in range(4):
        found, want = session.run(None, feed(3, seed))[0], exact.run(None, feed(3, seed))[0]
        assert sqnr(found, want) >= 30, session.describe()  # one code of a coarse output is 35 dB or so
        assert np.abs(found - want).max() <= 0.05 * np.abs(want).max()


def test_models_without_regions_run_whole(made: dict[str, Path]) -> None:
    session = graphopt.Session(str(made["float"]), threads=1)
    assert session.covered == 0
    want = ort.InferenceSession(str(made["float"])).run(None, feed())[0]
    np.testing.assert_allclose(session.run(["y"], feed())[0], want, rtol=1e-5, atol=1e-5)


def test_a_model_of_floats_is_opened_without_inferring_types(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("types of a model that kernels cannot run")

    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    monkeypatch.setattr(onnx_io, "infer_types", refuse)
    session = Session(FASHION.with_name("fashion_cnn.onnx"), 1)
    assert not session.regions and "an input that is not quantized" in str(session.describe())
    with pytest.raises(AssertionError, match="types of a model"):
        Session(FASHION, 1)


def test_a_model_without_nodes_is_run() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    model = helper.make_model(helper.make_graph([], "g", [x], [x]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    for kernels in (None, True, False):
        (result,) = Session(model.SerializeToString(), 1, kernels=kernels).run(None, {"x": np.ones(2, np.float32)})
        assert result.tolist() == [1, 1]


def test_whatever_kernels_multiply_has_codes() -> None:
    products = [*LOWERINGS, PACKED, "MatMulInteger", "ConvInteger", "com.microsoft::DynamicQuantizeMatMul"]
    for op in (*products, "com.microsoft::MatMulIntegerToFloat", "QuantizeLinear", "DequantizeLinear"):
        graph = Graph()
        graph.append(Node(op, (), None, 1))
        assert has_codes(graph), op


@pytest.mark.parametrize("source", ["bytes", "proto", "ir"])
def test_sources(made: dict[str, Path], source: str) -> None:
    data = made["qdq"].read_bytes()
    model: Any = data
    if source == "proto":
        model = onnx.load_from_string(data)
    if source == "ir":
        from graphopt.onnx_io import load

        model = load(data)
    want = Session(made["qdq"], threads=1, kernels=True).run(None, feed())[0]
    np.testing.assert_array_equal(Session(model, threads=1, kernels=True).run(None, feed())[0], want)


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("form", ["qdq", "dynamic", "float"])
def test_files_are_found_after_a_change_of_directory(
    made: dict[str, Path], form: str, external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session reads its file again for new sizes, and to run whole what a region refuses."""
    (tmp_path / "elsewhere").mkdir()
    model = onnx.load(made[form])
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=external, location="w", size_threshold=256)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # from the file, then from the plans on disk
        session = Session("m.onnx", threads=1, kernels=True)
    monkeypatch.chdir("elsewhere")
    want = Session(made[form], threads=1, kernels=True).run(None, feed(5))[0]
    np.testing.assert_array_equal(session.run(None, feed(5))[0], want)
    whole = ort.InferenceSession(str(made[form])).run(None, feed(5))[0]
    np.testing.assert_allclose(session._run_whole(None, feed(5), None)[0], whole, rtol=1e-5, atol=1e-5)


def test_new_shapes_and_empty_batches(made: dict[str, Path]) -> None:
    session = Session(made["qdq"], threads=2, kernels=True)
    exact = exact_session(made["qdq"])
    for batch in (1, 5, 0, 2, 3, 4, 6, 7, 8, 9, 10, 11, 1):
        found = session.run(None, feed(batch))[0]
        assert found.shape == (batch, 10) and found.dtype == np.float32
        if batch:
            assert sqnr(found, exact.run(None, feed(batch))[0]) >= 30


EMPTY = {
    "a slice": "q = DequantizeLinear(p, s, z)",
    "a product": "f = DequantizeLinear(p, s, z) m = MatMul(f, v) c = QuantizeLinear(m, s, z)"
    " q = DequantizeLinear(c, s, z)",
    "a float sum": "f = DequantizeLinear(p, s, z) q = Add(f, f)",
    "a Softmax": "f = DequantizeLinear(p, s, z) m = Softmax(f) c = QuantizeLinear(m, s, z)"
    " q = DequantizeLinear(c, s, z)",
    "a Concat": "k = Concat<axis = 0>(p, p) q = DequantizeLinear(k, s, z)",
}


@pytest.mark.parametrize("tail", EMPTY)
def test_an_empty_result_leaves_the_others_of_its_region(tail: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
g (float[B, 8] x) => (float[B, 8] y, float[n, 8] q) <float s = {{0.02}}, uint8 z = {{128}},
  int8[8, 8] w, int8 o = {{0}}, int64[1] zero = {{0}}> {{
  a = QuantizeLinear(x, s, z) d = DequantizeLinear(a, s, z) v = DequantizeLinear(w, s, o) t = MatMul(d, v)
  r = QuantizeLinear(t, s, z) y = DequantizeLinear(r, s, z) p = Slice(r, zero, zero, zero)
  {EMPTY[tail]} }}"""
    model = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).integers(-127, 127, (8, 8)).astype(np.int8)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    session, x = Session(model, threads=1, kernels=True), np.random.default_rng(1).standard_normal((4, 8), np.float32)
    assert len(session.regions) == 1 and len(session.regions[0].segment.outputs) == 2, session.describe()
    for _ in range(2):
        found, want = session.run(None, {"x": x}), exact_session(model).run(None, {"x": x})
        np.testing.assert_array_equal(found[0], want[0])
        assert found[1].shape == want[1].shape == (0, 8)


def test_four_threads_at_once(made: dict[str, Path]) -> None:
    session = Session(made["qdq"], threads=2, kernels=True)
    want = [session.run(None, feed(2, seed))[0] for seed in range(4)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(40):
            if not np.array_equal(session.run(None, feed(2, seed))[0], want[seed]):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("form", ["qdq", "float"])
def test_fork_after_use(made: dict[str, Path], form: str) -> None:
    session = Session(made[form], threads=2, kernels=True)
    want = session.run(None, feed())[0]
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(session.run(None, feed())[0], want) else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(session.run(None, feed())[0], want)


def test_portable_level(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    want = Session(made["qdq"], threads=1, kernels=True).run(None, feed())[0]
    monkeypatch.setenv("GRAPHOPT_ISA", "portable")
    session = Session(made["qdq"], threads=1, kernels=True)
    assert check_regions(session, feed()).total() >= 10
    np.testing.assert_array_equal(session.run(None, feed())[0], want)


def test_read_only_cache(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(blocked / "cache"))
    assert Session(made["qdq"], threads=1, kernels=True).run(None, feed())[0].shape == (2, 10)


def test_small_memory_gives_the_same(made: dict[str, Path]) -> None:
    want = Session(made["qdq-7bit"], threads=1, kernels=True).run(None, feed())[0]
    np.testing.assert_array_equal(
        Session(made["qdq-7bit"], threads=1, memory="small", kernels=True).run(None, feed())[0], want
    )


def test_nan_and_infinity_at_the_border(made: dict[str, Path]) -> None:
    feeds = feed()
    feeds["x"][0, 0, 0, :4] = [np.nan, np.inf, -np.inf, 3e38]
    check_regions(Session(made["qdq"], threads=1, kernels=True), feeds)


WRONG = {
    "no input 'z'": {"z": np.zeros(1)},
    "'x' is missing": {},
    "must be float32": {"x": np.zeros((1, 3, 16, 16))},
    r"shape \[N, 3, 16, 16\]": {"x": np.zeros((1, 3, 16), np.float32)},
    "got .1, 3, 16, 17.": {"x": np.zeros((1, 3, 16, 17), np.float32)},
}


@pytest.mark.parametrize("message", WRONG)
@pytest.mark.parametrize("form", ["qdq", "float"])
def test_wrong_feeds(made: dict[str, Path], form: str, message: str) -> None:
    with pytest.raises(graphopt.InputError, match=message):
        Session(made[form], threads=1, kernels=True).run(None, WRONG[message])


def test_wrong_names_and_options(made: dict[str, Path]) -> None:
    with pytest.raises(graphopt.InputError, match="no output 'nope'"):
        Session(made["qdq"]).run(["nope"], feed())
    with pytest.raises(graphopt.OptionError, match="threads"):
        Session(made["qdq"], threads=0, kernels=True)
    with pytest.raises(graphopt.ModelError):
        Session(b"not a model")


def test_the_face_of_onnxruntime(made: dict[str, Path]) -> None:
    session, stock = Session(made["qdq"]), ort.InferenceSession(str(made["qdq"]))
    for mine, theirs in ((session.get_inputs(), stock.get_inputs()), (session.get_outputs(), stock.get_outputs())):
        assert [(a.name, a.type, a.shape) for a in mine] == [(a.name, a.type, a.shape) for a in theirs]


@pytest.mark.skipif(not FASHION.is_file(), reason="no quantized Fashion network")
def test_fashion() -> None:
    images = np.random.default_rng(0).random((64, 1, 28, 28), np.float32)
    session, exact = Session(FASHION, threads=1, kernels=True), exact_session(FASHION)
    assert check_regions(session, {"image": images[:2]}).total() > 10
    found, want = session.run(None, {"image": images})[0], exact.run(None, {"image": images})[0]
    assert np.array_equal(found.argmax(1), want.argmax(1)) and sqnr(found, want) >= 40


@zoo.parametrize("smart-turn")
def test_trained(name: str) -> None:
    session, exact = Session(zoo.path(name), threads=1, kernels=True), exact_session(zoo.path(name))
    feeds = zoo.feeds(name)
    check_regions(session, feeds)
    for found, want in zip(session.run(None, feeds), exact.run(None, feeds)):
        assert sqnr(found, want) >= 30


@pytest.mark.slow
@zoo.parametrize("light-resnet50", "light-squeezenet", "light-shufflenet", "mobilenetv2-like", "light-inception_v1")
@pytest.mark.parametrize("variant", ["7bit", "full"])
def test_light(name: str, variant: str) -> None:
    session = Session(quantized(name, variant), threads=2, kernels=True)
    assert check_regions(session, zoo.feeds(name, 3)).total() > 20


def test_borders_share_no_memory_with_the_caller(made: dict[str, Path]) -> None:
    """Inputs of any memory order give the same; results stay when the session runs again; no input is kept."""
    session = Session(made["qdq"], threads=2, kernels=True)
    first, second = feed(2, 1)["x"], feed(2, 2)["x"]
    want = session.run(None, {"x": first})[0]
    kept = want.copy()
    other = session.run(None, {"x": second})[0]
    assert not np.array_equal(other, want) and np.array_equal(want, kept)
    scattered = np.empty((16, 2, 16, 3), np.float32).transpose(1, 3, 0, 2)
    scattered[:] = first
    behind = np.frombuffer(bytes(1) + first.tobytes(), np.uint8)[1:].view(np.float32).reshape(first.shape)
    for array in (scattered, behind, np.asfortranarray(first)):
        before = sys.getrefcount(array)
        np.testing.assert_array_equal(session.run(None, {"x": array})[0], want)
        assert sys.getrefcount(array) == before
