"""The factory of onnxruntime sessions: threads, optimization, external weights, further entries."""

import numpy as np
import onnx
import onnxruntime
import pytest

import graphopt
from graphopt import onnx_io
from graphopt.compress.stages import session_maker
from graphopt.equivalence.runnable import open_runnable
from graphopt.errors import ModelError
from graphopt.machine.sessions import EXTERNAL_FOLDER, open_as_optimized, open_session, session_options

LEVEL = onnxruntime.GraphOptimizationLevel


def scale(weight: np.ndarray) -> onnx.ModelProto:
    """y = w x"""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(weight.shape)) for name in "xy")
    node, initializer = onnx.helper.make_node("Mul", ["w", "x"], ["y"]), onnx.numpy_helper.from_array(weight, "w")
    graph = onnx.helper.make_graph([node], "scale", [x], [y], [initializer])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("threads", "within", "between"), [(None, 0, 0), (0, 0, 1), (1, 1, 1), (3, 3, 1)])
def test_threads(threads, within, between):
    settings = session_options(threads=threads)
    assert (settings.intra_op_num_threads, settings.inter_op_num_threads) == (within, between)


@pytest.mark.parametrize(("optimize", "level"), [(True, LEVEL.ORT_ENABLE_ALL), (False, LEVEL.ORT_DISABLE_ALL)])
def test_optimization(optimize, level):
    assert session_options(optimize=optimize).graph_optimization_level == level


def test_one_quiet_thread_by_default():
    settings = session_options()
    assert (settings.intra_op_num_threads, settings.log_severity_level) == (1, 4)
    assert settings.graph_optimization_level == LEVEL.ORT_ENABLE_ALL


def test_entries_are_set():
    settings = session_options(folder="weights", entries={"session.intra_op.allow_spinning": "0"})
    assert settings.get_session_config_entry(EXTERNAL_FOLDER) == "weights"
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_threads_of_sessions_that_judge_sleep_while_they_wait():
    model = onnx_io.load(scale(np.ones(4, np.float32)))
    for session in (session_maker("portable")(model), open_runnable(model).session(optimize=True).session):
        assert session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_model_in_memory_finds_its_weights_in_the_folder(tmp_path):
    weight = np.arange(2048, dtype=np.float32)
    onnx.save_model(scale(weight), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    source = (tmp_path / "m.onnx").read_bytes()
    feeds = {"x": np.full(weight.shape, 2, np.float32)}
    for session in (
        open_session(source, session_options(folder=str(tmp_path))),
        open_session(str(tmp_path / "m.onnx"), session_options()),
    ):
        assert np.array_equal(session.run(None, feeds)[0], 2 * weight)
        assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("refused", [(), (LEVEL.ORT_ENABLE_ALL,), (LEVEL.ORT_ENABLE_ALL, LEVEL.ORT_ENABLE_BASIC)])
def test_fewer_optimizations_where_a_model_does_not_load_with_all(monkeypatch, refused):
    made, tried = onnxruntime.InferenceSession, []

    def create(source, settings, providers):
        tried.append(settings.graph_optimization_level)
        if tried[-1] in refused:
            raise RuntimeError("refused")
        return made(source, settings, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    x = np.arange(4, dtype=np.float32)
    session = open_as_optimized(scale(x).SerializeToString(), session_options())
    assert np.array_equal(session.run(None, {"x": x})[0], x * x)
    assert tried[:-1] == list(refused)


def test_what_never_loads_is_told_as_at_first():
    with pytest.raises(ModelError, match="cannot load"):
        open_as_optimized(b"no model", session_options())


@pytest.mark.parametrize("kernels", [None, True, False])
def test_a_session_runs_a_pool_of_int8_codes(kernels):
    """Between DequantizeLinear and a result, from opset 21 on: onnxruntime 1.32's own optimizer breaks the model."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        g (int8[1,1,4,4] q) => (float[1,1,2,4] y) <float s = {0.0625}, int8 z = {3}>
        { d = DequantizeLinear(q, s, z) y = MaxPool<kernel_shape = [1, 1], strides = [2, 1]>(d) }""")
    codes = np.arange(16, dtype=np.int8).reshape(1, 1, 4, 4)
    expected = (codes[:, :, ::2].astype(np.float32) - 3) * 0.0625
    found = graphopt.Session(model, 1, kernels=kernels).run(None, {"q": codes})[0]
    np.testing.assert_array_equal(found, expected)
