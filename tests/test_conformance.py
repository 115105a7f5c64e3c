"""ONNX's own backend suite: what runs in onnxruntime gives the same bits after lift and emit; nothing else is lost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests, load_node_model_tests

import graphopt
from graphopt.ir import verify
from graphopt.onnx_io import load, to_proto

from .onnx_io.same import assert_same_model

CHUNKS = 8
Case = tuple[str, onnx.ModelProto, list[list[Any]]]
Transform = Callable[[onnx.ModelProto], onnx.ModelProto]


@cache
def cases() -> list[Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(load_node_model_tests())
        for kind in ("simple", "pytorch-converted", "pytorch-operator"):
            found += sorted(load_model_tests(kind=kind), key=lambda case: case.name)
    unique = {f"{case.kind}/{case.name}": case for case in found}
    return [(name, *_read(case)) for name, case in unique.items()]


def _read(case: Any) -> tuple[onnx.ModelProto, list[list[Any]]]:
    if case.model is not None:
        return case.model, [list(inputs) for inputs, _ in case.data_sets]
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    feeds = []
    for data in sorted(folder.glob("test_data_set_*")):
        count = len(list(data.glob("input_*.pb")))
        values = [(data / f"input_{i}.pb").read_bytes() for i in range(count)]
        feeds.append([_value(v, info.type) for v, info in zip(values, model.graph.input)])
    return model, feeds


def _value(data: bytes, type: onnx.TypeProto) -> Any:
    if type.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if type.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def run(model: onnx.ModelProto, feeds: list[list[Any]]) -> list[list[Any]] | None:
    """The outputs in plain onnxruntime, None where it does not run the case."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        return [session.run(None, dict(zip(names, values))) for values in feeds]
    except Exception:  # whatever onnxruntime raises, it means that the case is not for it
        return None


def identical(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(identical(x, y) for x, y in zip(a, b))
    if isinstance(a, dict):
        return a == b
    if isinstance(a, np.ndarray) and a.dtype != object:
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(np.array_equal(a, b))


def close(a: Any, b: Any) -> bool:
    """Equal but for rounding, where a rewrite may change the order of float arithmetic."""
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(close(x, y) for x, y in zip(a, b))
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "fc" or a.shape != b.shape or a.dtype != b.dtype:
        return identical(a, b)
    with np.errstate(all="ignore"):
        scale = np.abs(np.nan_to_num(b, posinf=0, neginf=0)).max(initial=0)
        return bool(np.allclose(a, b, rtol=0, atol=max(scale, 1e-30) * 8 * np.finfo(a.dtype).eps, equal_nan=True))


def outcomes_of(
    chosen: list[Case], transform: Transform, agree: Callable[[Any, Any], bool] = identical
) -> Iterator[tuple[str, str]]:
    """Run cases through a transform; what comes is the outcome of each: "ran", "kept", or what went wrong."""
    for name, model, feeds in chosen:
        expected = run(model, feeds) if feeds else None
        try:
            emitted = transform(model)
        except Exception as error:  # collected: one failure must not hide the others
            yield name, f"{type(error).__name__}: {error}"
            continue
        if expected is None:
            yield name, "kept"
            continue
        got = run(emitted, feeds)
        if got is None:
            yield name, "onnxruntime no longer runs it"
        elif not agree(expected, got):
            yield name, "other results"
        else:
            yield name, "ran"


def round_trip(model: onnx.ModelProto) -> onnx.ModelProto:
    lifted = load(model)
    verify(lifted)
    emitted = to_proto(lifted)
    assert_same_model(model, emitted)
    assert emitted.SerializeToString(deterministic=True) == to_proto(load(model)).SerializeToString(deterministic=True)
    if _valid(model):
        onnx.checker.check_model(emitted)
    return emitted


def _valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


def assert_right(outcomes: list[tuple[str, str]], share: float) -> None:
    """No case goes wrong, and at least this share of them ran in onnxruntime: those that did not show little."""
    wrong = [f"{name}: {what}" for name, what in outcomes if what not in ("ran", "kept")]
    assert not wrong, "\n".join(wrong)
    ran = sum(what == "ran" for _, what in outcomes)
    assert outcomes and ran >= share * len(outcomes), f"only {ran} of {len(outcomes)} cases run in onnxruntime"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_round_trip(chunk):
    assert_right(list(outcomes_of(cases()[chunk::CHUNKS], round_trip)), 0.75)


def unvalidated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every pass, and no check that could take a wrong one back."""
    return graphopt.optimize(model, validate=False).model


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_optimised(chunk):
    assert_right(list(outcomes_of(cases()[chunk::CHUNKS], unvalidated, close)), 0.75)


def with_constants(model: onnx.ModelProto, inputs: list[Any], kept: int) -> tuple[onnx.ModelProto, list[list[Any]]]:
    """The model with all its inputs but `kept` (-1: all) as initializers, and the inputs that are left."""
    given = {tensor.name for tensor in model.graph.initializer}
    free = [info for info in model.graph.input if info.name not in given]
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.ir_version = max(model.ir_version, 4)
    del changed.graph.input[:]
    left = []
    for i, (info, value) in enumerate(zip(free, inputs)):
        if i == kept or not isinstance(value, np.ndarray):
            changed.graph.input.append(info)
            left.append(value)
        else:
            changed.graph.initializer.append(numpy_helper.from_array(value, info.name))
    return changed, [left]


def with_open_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a name in place of every size of its inputs, one for each size, and no declared results."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for info in changed.graph.input:
        for dim in info.type.tensor_type.shape.dim:
            dim.dim_param = f"size{dim.dim_value}"
    for info in changed.graph.output:
        info.type.tensor_type.ClearField("shape")
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_optimised_where_inputs_are_constant(chunk):
    """Cases with every input constant but one, or all: what folds and vanishes must do so for a reason."""
    is_open = chunk % 2 == 1
    harder: list[Case] = []
    for name, model, feeds in cases()[chunk::CHUNKS]:
        count = min(len(feeds[0]), 4) if feeds else 0
        if count == 1 and not is_open:
            count = 0  # to keep the only input is `test_optimised`
        for kept in range(-1, count) if feeds and feeds[0] else ():
            changed, left = with_constants(model, feeds[0], kept)
            harder.append((f"{name}, input {kept}", with_open_sizes(changed) if is_open else changed, left))
    assert_right(list(outcomes_of(harder, tolerant, close)), 0.5)


def tolerant(model: onnx.ModelProto) -> onnx.ModelProto:
    """As `unvalidated`, but what making an input constant made invalid may be refused."""
    try:
        return unvalidated(model)
    except graphopt.errors.ModelError:
        if run(model, []) is None:
            return model
        raise
