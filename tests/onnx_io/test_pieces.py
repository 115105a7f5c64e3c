"""Sessions of large models in pieces: wherever they are cut, they give what one session gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import onnx_io
from graphopt.equivalence import runnable
from graphopt.machine import sessions
from graphopt.measure import ort_session
from graphopt.measure.latency import results_of
from graphopt.measure.profile import _profiles
from graphopt.onnx_io import pieces, weights
from tests.bench.memory import large_model

ROWS = np.random.default_rng(1).standard_normal((4, 64), np.float32)


def small_limits(patch: pytest.MonkeyPatch) -> list[int]:
    """All is large from a kilobyte on, and too much to pack from 20: bytes of weights of each session opened then."""
    seen: list[int] = []
    for module in (runnable, weights):
        patch.setattr(module, "LARGE", 1 << 10)
    for module in (pieces, sessions):
        patch.setattr(module, "PACKED", 20 << 10)
    spare = sessions.spare_memory
    patch.setattr(pieces, "spare_memory", lambda made, size, halves: spare(made, size, halves) or seen.append(size))
    return seen


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("target", ["onnxruntime", "portable"])
def test_packed_weights_of_one_piece_at_a_time(
    bits: int, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = large_model(tmp_path / "m.onnx", 8 * 2 * 64 * 256 * bits / 8e9, bits, hidden=64)
    int4 = graphopt.Quantize(mode="weights", weight_type="int4")
    graphopt.optimize(source, tmp_path / "int4.onnx", quantize=int4, target=target, validate=False)
    model, feeds = onnx_io.load(tmp_path / "int4.onnx"), {"x": ROWS.astype(np.float16 if bits == 16 else np.float32)}
    (right,) = ort_session(model).run(None, feeds)
    seen = small_limits(monkeypatch)
    plain, tapped = ort_session(model), runnable.open_runnable(model).session(optimize=True)
    assert isinstance(plain, pieces.PiecewiseSession) and isinstance(tapped.session, pieces.PiecewiseSession)
    assert [value.name for value in plain.get_inputs()] == ["x"] and len(plain.get_outputs()) == 1
    seen.clear()
    (found,) = plain.run(None, feeds)
    assert len(seen) > 4 and max(seen) <= 20 << 10
    once = len(seen)
    samples = [{"x": feeds["x"][:2]}, {"x": feeds["x"].astype(np.float32)[2:]}]  # converted where inputs are float16
    halves = [*results_of(plain, samples)]
    assert len(seen) == 2 * once  # each piece is opened once for all samples
    for result in (found, *tapped.run(feeds).values(), np.concatenate([half for (half,) in halves])):
        np.testing.assert_allclose(result, right, rtol=1e-2, atol=1e-2 * np.abs(right).max())
    assert _profiles([model], feeds, 1, 1, optimize=True)[0]  # of one session


def test_values_pass_between_pieces() -> None:
    """Taps, an early result, a nested graph that captures values and weights, and a weight read by several pieces."""
    f, rng = TensorProto.FLOAT, np.random.default_rng(0)
    weights = {name: rng.standard_normal((64, 64), np.float32) / 8 for name in "abc"}
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["p", "c"], ["t"])], "then", [], [helper.make_tensor_value_info("t", f, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["e"])], "else", [], [helper.make_tensor_value_info("e", f, None)]
    )
    nodes = [
        helper.make_node("Transpose", ["a"], ["at"]),
        helper.make_node("MatMul", ["x", "at"], ["p"]),
        helper.make_node("MatMul", ["p", "b"], ["early"]),
        helper.make_node("ReduceSum", ["early"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "sum"], ["never"]),
        helper.make_node("If", ["never"], ["chosen"], then_branch=other, else_branch=branch),
        helper.make_node("MatMul", ["chosen", "at"], ["q"]),
        helper.make_node("Add", ["q", "p"], ["late"]),
    ]
    infos = [helper.make_tensor_value_info(name, f, None) for name in ("early", "late")]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", f, ["N", 64])], infos, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    cut = pieces.cut(model, 1)
    assert [[t.name for t in piece.graph.initializer] for piece in cut] == [["a"], ["b"], ["c"], ["a"]]
    right = ort_session(model.SerializeToString()).run(None, {"x": ROWS})
    held = {"x": ROWS}
    for piece in cut:
        for value in piece.graph.input:
            value.type.tensor_type.elem_type = TensorProto.BOOL if value.name == "never" else f
        names = [value.name for value in piece.graph.output]
        feeds = {value.name: held[value.name] for value in piece.graph.input}
        held.update(zip(names, ort_session(piece.SerializeToString()).run(names, feeds)))
    for name, array in zip(("early", "late"), right):
        np.testing.assert_allclose(held[name], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("edit", ["default", "weight", "sparse"])
def test_what_cannot_be_cut(edit: str) -> None:
    """Inputs with defaults, and results that are weights, stay in one piece."""
    f = TensorProto.FLOAT
    nodes = [helper.make_node("MatMul", ["x", name], [result]) for name, result in (("a", "p"), ("b", "q"))]
    infos = [helper.make_tensor_value_info(name, f, None) for name in ("p", "q")]
    stored = [numpy_helper.from_array(np.eye(64, dtype=np.float32), name) for name in "ab"]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", f, ["N", 64])], infos, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert len(pieces.cut(model, 1)) == 2
    if edit == "default":
        model.graph.input.append(helper.make_tensor_value_info("a", f, [64, 64]))
    elif edit == "weight":
        model.graph.output.append(helper.make_tensor_value_info("a", f, [64, 64]))
    else:
        model.graph.sparse_initializer.append(onnx.SparseTensorProto())
    assert pieces.cut(model, 1) == []
