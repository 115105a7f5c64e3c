"""The factory of onnxruntime sessions: threads, optimization, external weights, further entries."""

import numpy as np
import onnx
import onnxruntime
import pytest

from graphopt.machine.sessions import EXTERNAL_FOLDER, open_session, session_options

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
