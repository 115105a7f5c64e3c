"""The memory of a comparison: sessions hold no copies of large weights, and no more inner values than are compared."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto as T

import graphopt
from graphopt.equivalence import reference, runnable
from graphopt.equivalence.power import make_perturbable
from graphopt.equivalence.runnable import RunnableModel, open_runnable
from graphopt.equivalence.tapped import TappedSession
from graphopt.machine import sessions
from graphopt.machine.sessions import CONVOLUTIONS, open_session
from tests.equivalence.nets import model, node


def wide_product(*sizes: int) -> onnx.ModelProto:
    """MatMuls and Relus by weights of these sizes."""
    rng, nodes, weights = np.random.default_rng(0), [], {}
    for i, (m, n) in enumerate(pairwise(sizes)):
        weights[f"w{i}"] = rng.standard_normal((m, n), np.float32) / np.float32(m**0.5)
        nodes += [node("MatMul", f"{'x' if i == 0 else f'r{i - 1}'} w{i}", f"h{i}"), node("Relu", f"h{i}", f"r{i}")]
    last = f"r{len(sizes) - 2}"
    return model(nodes, [("x", T.FLOAT, ["N", sizes[0]])], [(last, T.FLOAT, ["N", sizes[-1]])], weights)


def test_lent_weights_are_perturbed_without_a_copy_in_the_model():
    opened = open_runnable(wide_product(512, 1024, 512)).with_weights_lent()
    perturbable = make_perturbable(opened, 8)
    assert perturbable is not None and set(perturbable.fed) == {"w0", "w1"} == set(opened.lent)
    assert all(perturbable.fed[name] is opened.lent[name] for name in opened.lent)
    assert perturbable.proto.ByteSize() < 2000 and not perturbable.proto.graph.initializer
    found = graphopt.compare(opened, opened)
    assert found.status == "equal" and found.power is not None and found.power >= 0.5


def test_onnxruntime_copies_no_large_weights(monkeypatch: pytest.MonkeyPatch):
    """Packing, folding and blocks of channels: each is a copy of weights, which a comparison leaves out."""
    opened: list[tuple[bool, set[str]]] = []

    def recorded(source: Any, settings: Any, *, without: Any = ()) -> Any:
        try:
            unpacked = settings.get_session_config_entry("session.disable_prepacking") == "1"
        except RuntimeError:  # the entry was not set
            unpacked = False
        opened.append((unpacked, set(without)))
        return open_session(source, settings, without=without)

    monkeypatch.setattr(runnable, "open_session", recorded)
    rng = np.random.default_rng(0)
    convolution = model(
        [node("Conv", "x w", "y")], [("x", T.FLOAT, [1, 128, 4, 4])], [("y", T.FLOAT, None)],
        {"w": rng.standard_normal((256, 128, 3, 3), np.float32)},
    )  # fmt: skip
    products = wide_product(512, 1024, 512)
    size = 4 * 256 * 128 * 9
    for made, packable, copied, expected in (
        (products, 4 * size, 2 * size, (False, set())),
        (products, 1, size, (True, {"ConstantFolding"})),
        (convolution, 1, size - 1, (True, set(CONVOLUTIONS))),
        (convolution, size, size, (False, set())),
    ):
        monkeypatch.setattr(runnable, "PACKABLE", packable)
        monkeypatch.setattr(runnable, "COPIED", copied)
        opened.clear()
        found = graphopt.compare(made, made)
        assert found.status == "equal" and len(opened) >= 4 and all(entry == expected for entry in opened)


def test_large_weights_in_half_precision_are_not_widened_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime's optimizations widen all of them at loading, and keep both."""
    made = wide_product(256, 512, 256)
    for info in (*made.graph.input, *made.graph.output):
        info.type.tensor_type.elem_type = T.FLOAT16
    for tensor in made.graph.initializer:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    levels = []

    def recorded(source: Any, settings: Any, *, without: Any = ()) -> Any:
        levels.append(settings.graph_optimization_level)
        return open_session(source, settings, without=without)

    monkeypatch.setattr(runnable, "open_session", recorded)
    level = ort.GraphOptimizationLevel
    assert graphopt.compare(made, made).status == "equal" and level.ORT_ENABLE_ALL in levels
    levels.clear()
    monkeypatch.setattr(runnable, "COPIED", 1 << 10)
    monkeypatch.setattr(sessions, "PACKED", 1 << 12)
    assert graphopt.compare(made, made).status == "equal" and {*levels} == {level.ORT_DISABLE_ALL}


def test_sessions_hold_no_more_inner_values_than_are_compared(monkeypatch: pytest.MonkeyPatch):
    """A run of onnxruntime keeps all results of its session until it ends, also those that nobody asked for."""
    made = wide_product(*[256] * 13)
    opened: list[int] = []
    session = RunnableModel.session

    def counted(self: RunnableModel, **options: Any) -> TappedSession:
        taps = tuple(options.get("taps", ()))
        opened.append(len(taps))
        return session(self, **options | {"taps": taps})

    monkeypatch.setattr(RunnableModel, "session", counted)
    full = graphopt.compare(made, made)
    assert full.status == "equal" and full.inner == 23 and max(opened) == 23 and opened.count(23) == 2
    opened.clear()
    monkeypatch.setattr(reference, "_TAP_BYTES", 5 * 1024)
    few = graphopt.compare(made, made)
    assert few.status == "equal" and few.inner in range(2, 6)
    assert opened.count(23) == 1 and opened.count(few.inner) == 2  # one to learn their types
