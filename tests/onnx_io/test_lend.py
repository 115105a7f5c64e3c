"""Weights that a session reads where they lie: the same results, the same model when put back."""

import gc

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from graphopt import onnx_io
from graphopt.equivalence.runnable import RunnableModel, open_runnable, signature_of
from graphopt.errors import OutputError
from graphopt.ir import Constant, DType, Value
from graphopt.machine.sessions import IN_PLACE_SINCE, open_session
from graphopt.machine.spool import Spool, place_of
from graphopt.measure import ort_session
from graphopt.onnx_io import lend
from graphopt.onnx_io.emit import Emitter
from graphopt.onnx_io.lend import LEAST, Lender, emission, with_lent
from graphopt.onnx_io.parts.apart import describe_lent
from tests.generators import chain
from tests.quantize.nets import convnet, images

BORROWS_NOT = tuple(map(int, ort.__version__.split(".")[:2])) < IN_PLACE_SINCE


def lent_of(model):
    lender = Lender()
    return Emitter(model, store=lender.store).model(), lender.lent


def test_large_weights_are_left_out_and_put_back():
    model = onnx_io.load(convnet())
    plain = onnx_io.to_proto(model)
    proto, weights = lent_of(model)
    large = {t.name for t in plain.graph.initializer if numpy_helper.to_array(t).nbytes >= LEAST}
    assert set(weights) == large and large
    assert proto.ByteSize() < plain.ByteSize() - sum(array.nbytes for array in weights.values()) / 2
    back = with_lent(proto, weights)
    onnx.checker.check_model(back)
    for a, b in zip(plain.graph.initializer, back.graph.initializer, strict=True):
        assert a.name == b.name and np.array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))
    assert {t.name for t in proto.graph.initializer if t.data_location} == large


def test_sessions_read_what_was_lent_and_keep_it():
    model, feed = onnx_io.load(convnet()), images(1)[0]
    expected = open_runnable(model).session(optimize=True).run(feed)["y"]
    proto, weights = lent_of(model)
    session = RunnableModel(proto, None, None, weights).session(optimize=True)
    del weights
    gc.collect()
    assert np.array_equal(session.run(feed)["y"], expected)


def test_sessions_of_candidates_copy_no_weights(monkeypatch):
    model, feed, sizes = onnx_io.load(convnet()), images(1)[0], []
    expected = ort_session(onnx_io.to_proto(model).SerializeToString()).run(None, feed)[0]
    monkeypatch.setattr(
        lend, "open_session", lambda source, settings: sizes.append(len(source)) or open_session(source, settings)
    )
    session = ort_session(model)
    gc.collect()
    assert np.array_equal(session.run(None, feed)[0], expected)
    weights = sum(array.nbytes for array in lent_of(model)[1].values())
    assert sizes[0] < onnx_io.to_proto(model).ByteSize() - weights / 2


def test_versions_that_know_no_borrowing_are_lent_copies(monkeypatch):
    model, feed = onnx_io.load(convnet()), images(1)[0]
    expected = open_runnable(model).session(optimize=True).run(feed)["y"]
    monkeypatch.setattr(ort, "__version__", "1.22.0")
    monkeypatch.setattr(ort.SessionOptions, "add_external_initializers_from_files_in_memory", None)
    proto, weights = lent_of(model)
    session = RunnableModel(proto, None, None, weights).session(optimize=True)
    assert np.array_equal(session.run(feed)["y"], expected)


def product(weight, path):
    """A model file with one MatMul by this weight, and the weight in it."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", len(weight)])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.skipif(BORROWS_NOT, reason="this version of onnxruntime copies lent weights")
def test_sessions_read_weights_where_they_lie(tmp_path):
    opened = open_runnable(product(np.ones((600, 600), np.float32), tmp_path / "m.onnx"))
    weight, feed = opened.lent["w"], {"x": np.ones((1, 600), np.float32)}
    session = opened.session(optimize=True, prepack=False)
    assert np.all(session.run(feed)["y"] == 600)
    weight.flags.writeable = True
    weight[:] = 2
    assert np.all(session.run(feed)["y"] == 1200)


def test_external_data_beside_lent_weights_are_read(tmp_path):
    first, second = (np.eye(40, dtype=np.float32) * n for n in (2, 3))
    path = product(first, tmp_path / "m.onnx")
    proto = onnx.load(path)
    onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.node.append(onnx.helper.make_node("MatMul", ["y", "v"], ["z"]))
    proto.graph.output[0].name = "z"
    describe_lent(proto.graph.initializer.add(name="v", dims=[40, 40], data_type=1), second.nbytes)
    session = RunnableModel(proto, None, tmp_path, {"v": second}).session(optimize=True)
    assert np.array_equal(session.run({"x": np.eye(40, dtype=np.float32)})["z"], 6 * np.eye(40, dtype=np.float32))


def doubled(weight, path):
    """The file's model with a new weight in place of its own, twice as large."""
    loaded = onnx_io.load(product(weight, path))
    (node,) = loaded.graph
    loaded.graph.set_input(node, 1, Value(name="v", constant=Constant.of(2 * weight)))
    return loaded


def test_new_weights_beyond_what_is_held_lie_in_files(tmp_path, monkeypatch):
    weight = np.arange(600 * 600, dtype=np.float32).reshape(600, 600)
    monkeypatch.setattr(lend, "HELD", 2 * weight.nbytes)
    in_memory = emission(doubled(weight, tmp_path / "m.onnx")).lent["v"]
    monkeypatch.setattr(lend, "HELD", weight.nbytes - 1)
    emitted = emission(doubled(weight, tmp_path / "m.onnx"))
    assert place_of(in_memory) is None and place_of(emitted.lent["v"]) is not None
    assert np.array_equal(emitted.lent["v"], 2 * weight) and np.array_equal(in_memory, 2 * weight)
    session = RunnableModel(emitted.proto, None, tmp_path, emitted.lent).session(optimize=True)
    assert np.array_equal(session.run({"x": np.eye(600, dtype=np.float32)[:3]})["y"], 2 * weight[:3])
    assert np.array_equal(numpy_helper.to_array(emitted.whole().graph.initializer[0]), 2 * weight)


def test_computed_weights_of_candidates_beyond_what_is_held_lie_in_files(tmp_path, monkeypatch):
    weight = np.arange(600 * 600, dtype=np.float32).reshape(600, 600)
    loaded = doubled(weight, tmp_path / "m.onnx")
    (node,) = loaded.graph
    computed = Constant(DType.FLOAT, weight.shape, lambda: 3 * weight)
    monkeypatch.setattr(lend, "HELD", 0)
    held = lend.lent_emission(loaded).lent["v"]
    assert place_of(held) is None and held is node.inputs[1].constant.array()
    loaded.graph.set_input(node, 1, Value(name="v", constant=computed))
    assert not computed.is_held
    found = lend.lent_emission(loaded).lent["v"]
    assert place_of(found) is not None and np.array_equal(found, 3 * weight)


def test_new_weights_stay_in_memory_where_no_file_can_be_written(tmp_path, monkeypatch):
    def full(*_):
        raise OutputError("the disk is full")

    monkeypatch.setattr(lend, "HELD", 0)
    monkeypatch.setattr(Spool, "keep", full)
    weight = np.ones((600, 600), np.float32)
    kept = emission(doubled(weight, tmp_path / "m.onnx")).lent["v"]
    assert place_of(kept) is None and np.array_equal(kept, 2 * weight)


def test_where_onnxruntime_takes_none_they_are_put_back(monkeypatch):
    def refuse(*_):
        raise RuntimeError("external initializers are not known here")

    for name in ("add_external_initializers", "add_external_initializers_from_files_in_memory"):
        monkeypatch.setattr(ort.SessionOptions, name, refuse)
    model, feed = onnx_io.load(convnet()), images(1)[0]
    proto, weights = lent_of(model)
    session = RunnableModel(proto, None, None, weights).session(optimize=True)
    assert np.array_equal(session.run(feed)["y"], open_runnable(model).session(optimize=True).run(feed)["y"])


def test_tensors_that_numpy_or_shape_inference_need_stay():
    strings = numpy_helper.from_array(np.array(["a" * 2000, "b"], object), "s")
    shape = numpy_helper.from_array(np.ones(1000, np.int64), "i")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [n], [f"{n}_out"]) for n in "si"], "g", [],
        [onnx.helper.make_tensor_value_info("s_out", onnx.TensorProto.STRING, [2]),
         onnx.helper.make_tensor_value_info("i_out", onnx.TensorProto.INT64, [1000])],
        [strings, shape],
    )  # fmt: skip
    model = onnx_io.load(onnx.helper.make_model(graph))
    proto, weights = lent_of(model)
    assert not weights and proto == onnx_io.to_proto(model)


def test_an_array_that_somebody_holds_is_not_read_again():
    model = onnx_io.load(chain(200))
    operands = [v.constant for node in model.graph for v in node.inputs if v is not None and v.constant is not None]
    held = [(constant, constant.array()) for constant in operands]
    assert len(held) >= 100 and all(constant.array() is array for constant, array in held)


def test_inputs_are_told_without_emitting(monkeypatch):
    protos = [convnet(), chain(50)]
    expected = [open_runnable(proto).inputs for proto in protos]
    models = [onnx_io.load(proto) for proto in protos]
    monkeypatch.setattr(Emitter, "model", None)
    for model, ports in zip(models, expected):
        found = signature_of(model).inputs
        assert [(p.name, p.elem, p.dims) for p in found] == [(p.name, p.elem, p.dims) for p in ports]
