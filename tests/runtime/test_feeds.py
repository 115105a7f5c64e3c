"""What a caller hands to a Session and sees of it is onnxruntime's: feeds, names of outputs, names of open sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.runtime import Session
from graphopt.runtime.feeds import Feeds
from tests.runtime.forms import feed


def sums(kind: int, shape: list[Any], inputs: int = 1) -> bytes:
    """`y` is the sum of all inputs and `z` twice that; onnxruntime runs all of it."""
    names = [f"x{index}" for index in range(inputs)]
    nodes = [helper.make_node("Add", [names[0], names[0]] if inputs == 1 else names[:2], ["y2"])]
    nodes += [helper.make_node("Add", [f"y{i}", names[i]], [f"y{i + 1}"]) for i in range(2, inputs)]
    last = nodes[-1].output[0]
    nodes += [helper.make_node("Identity", [last], ["y"]), helper.make_node("Add", [last, last], ["z"])]
    values = [helper.make_tensor_value_info(name, kind, shape) for name in (*names, "y", "z")]
    graph = helper.make_graph(nodes, "sums", values[:inputs], values[inputs:])
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )


@pytest.mark.parametrize("form", ["qdq", "float"])
def test_no_name_means_all_outputs_and_one_may_be_asked_twice(made: dict[str, Path], form: str) -> None:
    session = Session(made[form], 1, kernels=True)
    want = session.run(None, feed())
    for names in ([], (), None, ["y", "y"]):
        found = session.run(names, feed())
        assert len(found) == (2 if names else 1)
        for one in found:
            np.testing.assert_array_equal(one, want[0])


@pytest.mark.parametrize("form", ["qdq", "float"])
def test_big_endian_arrays_and_lists(made: dict[str, Path], form: str) -> None:
    session, x = Session(made[form], 1, kernels=True), feed()["x"]
    want = session.run(None, {"x": x})[0]
    for fed in (x.astype(">f4"), x.tolist(), x.astype("<f4")):
        np.testing.assert_array_equal(session.run(None, {"x": fed})[0], want)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT8, TensorProto.FLOAT16])
def test_feeds_that_onnxruntime_takes(kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    model = sums(kind, ["N"])
    session, stock = Session(model, 1), ort.InferenceSession(model)
    for fed in ([1, 2], [1.5, 2], [], np.array([3, 4], dtype), np.arange(6).astype(dtype)[::2]):
        for found, want in zip(session.run([], {"x0": fed}), stock.run([], {"x0": fed}), strict=True):
            assert found.dtype == want.dtype and np.array_equal(found, want)
    swapped = np.array([3, 4], dtype.newbyteorder(">"))
    np.testing.assert_array_equal(session.run(["y"], {"x0": swapped})[0], [6, 8])
    np.testing.assert_array_equal(Session(sums(kind, []), 1).run(["z"], {"x0": 3})[0], 12)


WRONG: dict[str, Any] = {
    "'x0' must be float32: could not convert": ["a"],
    "'x0' must be float32: setting an array": [[1, 2], [3]],
    "'x0' must be float32, got object": None,
    "'x0' must be float32, got float64": np.float64(1),
    r"shape \[N\], got \[\]": 1,
}


@pytest.mark.parametrize("message", WRONG)
def test_feeds_that_are_no_arrays(message: str) -> None:
    with pytest.raises(graphopt.InputError, match=message) as caught:
        Session(sums(TensorProto.FLOAT, ["N"]), 1).run(None, {"x0": WRONG[message]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("feeds", [None, 5, [("x0", np.zeros(2, np.float32))]])
def test_feeds_that_are_no_dict(feeds: Any) -> None:
    with pytest.raises(graphopt.InputError, match=r"^feeds are a dict of arrays by input name, got "):
        Session(sums(TensorProto.FLOAT, ["N"]), 1).run(None, feeds)


def test_a_model_that_runs_whole_is_not_checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Feeds, feeds: Any) -> None:
        raise AssertionError("the feeds were checked")

    session = Session(sums(TensorProto.FLOAT, ["N"], 130), 1)
    feeds = {f"x{index}": np.full(2, index, np.float32) for index in range(130)}
    want = session.run(["y"], feeds)[0]
    monkeypatch.setattr(Feeds, "arrays", refuse)
    np.testing.assert_array_equal(session.run(["y"], feeds)[0], want)
    np.testing.assert_array_equal(want, [130 * 129 / 2] * 2)
    monkeypatch.undo()
    with pytest.raises(graphopt.InputError, match="input 'x64' is missing"):
        session.run(None, {name: array for name, array in feeds.items() if name != "x64"})


def with_other_sizes(path: Path, shape: list[Any]) -> bytes:
    """The model, its output declared with these sizes."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, shape))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("form", ["qdq", "float"])
@pytest.mark.parametrize("shape", [["N", 10], ["rows", 10], ["rows", "columns"]])
def test_open_sizes_keep_their_names(made: dict[str, Path], form: str, shape: list[Any]) -> None:
    session = Session(with_other_sizes(made[form], shape), 1, kernels=True)
    assert bool(session.regions) is (form == "qdq")
    (found,) = session.get_outputs()
    assert (found.name, found.type, found.shape) == ("y", "tensor(float)", [shape[0], 10])
