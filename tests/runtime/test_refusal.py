"""Shapes that a region refuses: onnxruntime runs the whole model for them, at once and from then on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.errors import Declined
from graphopt.runtime import Session
from graphopt.runtime.compile import region_compiler
from graphopt.runtime.execute.region import Region
from graphopt.runtime.execute.whole import RefusedShapes
from tests.runtime import language
from tests.runtime.forms import feed
from tests.runtime.language import feeds, make_language_model

compile_region = region_compiler.compile_region


def _refusing_five(operations: Any, inputs: Any, outputs: Any, shapes: Sequence[tuple[int, ...]], memory: Any) -> Any:
    if shapes[0][0] == 5:
        raise Declined("batches of five")
    return compile_region(operations, inputs, outputs, shapes, memory)


@contextmanager
def _no_region(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails where a region is run at all, on kernels or apart in onnxruntime."""
    with monkeypatch.context() as patch:
        patch.setattr(Region, "on_kernels", lambda *_: pytest.fail("a region was asked"))
        patch.setattr(Region, "in_onnxruntime", lambda *_: pytest.fail("a region was run apart"))
        yield


@pytest.fixture
def session(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Session:
    """On a model that comes from no file, so that no plans are kept of it."""
    monkeypatch.setattr(region_compiler, "compile_region", _refusing_five)
    return Session(onnx.load(made["qdq"]), threads=1, kernels=True)


def test_the_whole_model_runs_in_onnxruntime(
    session: Session, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    want = Session(made["qdq"], threads=1, kernels=False).run(None, feed(5))
    with monkeypatch.context() as patch:
        patch.setattr(Region, "in_onnxruntime", lambda *_: pytest.fail("the region was run apart"))
        np.testing.assert_array_equal(session.run(None, feed(5)), want)
    with _no_region(monkeypatch):
        np.testing.assert_array_equal(session.run(None, feed(5)), want)
        np.testing.assert_array_equal(session.run([session.get_outputs()[0].name], feed(5)), want)
    assert "whole in onnxruntime for x 5×" in str(session.describe())
    assert "kernels refuse batches of five" in str(session.describe())


def test_other_shapes_stay_on_kernels(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    before = session.run(None, feed(2))
    session.run(None, feed(5))
    monkeypatch.setattr(session._in_onnxruntime.session, "run", lambda *_: pytest.fail("run whole"), raising=False)
    np.testing.assert_array_equal(session.run(None, feed(2)), before)


def test_a_region_that_refuses_is_measured_apart(session: Session, made: dict[str, Path]) -> None:
    found = session.region_inputs(feed(5))
    assert found.keys() == set(session.regions)
    assert "batches of five" in session.regions[0].refusals


def test_lengths_of_a_growing_cache_count_for_nothing() -> None:
    """A decoder whose cache is refused at one length does not try again at each of the next."""
    session = Session(make_language_model(), threads=1, kernels=True)
    session._refused.add(feeds(past=7, tokens=1), "this")
    assert feeds(past=8, tokens=1) in session._refused
    assert feeds(past=8, tokens=2) not in session._refused
    assert feeds(past=8, tokens=1, batch=2) not in session._refused


@pytest.mark.parametrize("size", [20, 64])
def test_heads_of_any_size_leave_products_on_kernels(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention without a kernel is left to onnxruntime when the model is lowered, so that no region refuses it."""
    monkeypatch.setattr(language, "SIZE", size)
    model = language.make_language_model()
    session, given = Session(model, threads=1, kernels=True), feeds(past=7, tokens=2, batch=2)
    for a, b in zip(session.run(None, given), language.stock(model).run(None, given), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0.05 * np.abs(b).max())
    assert session.covered == 4 * language.LAYERS + 1
    assert not any(region.refusals for region in session.regions)
    assert any("CachedAttention" in part.operators for part in session.describe().parts) == (size == 64)


def test_what_is_refused_is_told_in_one_line() -> None:
    refused = RefusedShapes({})
    assert str(refused) == ""
    for size in range(3):
        refused.add({"x": np.zeros((size, 4)), "n": np.zeros(())}, "that")
    told = str(refused)
    assert told == "whole in onnxruntime for x 2×4, n scalar and 2 other sets of shapes: kernels refuse that"
    for size in range(1000):
        refused.add({"x": np.zeros((size, 4))}, "that")
    assert {"x": np.zeros((999, 4))} in refused
    assert {"x": np.zeros((0, 4))} not in refused
