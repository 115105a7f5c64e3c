"""Every rule on ONNX's backend cases: central differences in double precision, and onnxruntime on the same model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.errors import ModelError
from graphopt.gradient import gradient_model
from graphopt.gradient.rules import CONSTANT, RULES
from tests.test_conformance import cases, run

from .checking import STEP, check, is_float, session

SIZES = {"Resize": 1, "Upsample": 1}
"""Operators whose float inputs from this slot on decide shapes and have no gradient."""
ROUGH = ("Erf", "Gelu", "Shrink", "GroupNormalization")
"""Operators that ONNX's reference evaluator computes to 1e-9 or in single precision: differences take a longer step."""
NOT_DOUBLE = ("align_corners",)
"""Cases that the reference evaluator resizes otherwise than onnxruntime does."""
ELSEWHERE = ("LSTM", "GRU", "RNN", "Scan")
"""Operators that nothing runs in double precision as their gradients need it; `test_control.py` has them."""
LARGEST = 20_000
"""Elements of the inputs of a case that is run; larger ones show nothing that smaller ones do not."""


def usable(model: onnx.ModelProto, values: list[Any]) -> bool:
    """Floats come in and go out, every node has a rule, and onnxruntime runs the case."""
    arrays = all(isinstance(v, np.ndarray) for v in values)
    if not arrays or not any(is_float(v) and v.dtype == np.float32 for v in values):
        return False
    if sum(v.size for v in values) > LARGEST or not all(
        n.op_type in RULES and n.op_type not in ELSEWHERE for n in model.graph.node
    ):
        return False
    return any(o.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for o in model.graph.output)


def feeds_of(model: onnx.ModelProto, values: list[Any]) -> tuple[dict[str, Any], list[str]]:
    """Inputs moved off the kinks that round numbers sit on, and the names to differentiate by."""
    rng = np.random.default_rng(1)
    fixed = {name for n in model.graph.node for name in n.input[SIZES.get(n.op_type, len(n.input)) :]}
    feeds = dict(zip((i.name for i in model.graph.input), values))
    wrt = [name for name, v in feeds.items() if is_float(v) and name not in fixed]
    moved = {name: np.asarray(feeds[name] + 0.01 * rng.standard_normal(feeds[name].shape), np.float32) for name in wrt}
    return {**feeds, **moved}, wrt


@pytest.mark.parametrize("part", range(4))
def test_gradients_of_the_backend_suite_equal_central_differences(part: int) -> None:
    outcomes: Counter[str] = Counter()
    wrong = []
    for name, model, data in cases()[part::4]:
        if not data or "train" in name or any(n in name for n in NOT_DOUBLE) or not usable(model, data[0]):
            continue
        if run(model, data[:1]) is None:
            continue
        feeds, wrt = feeds_of(model, data[0])
        try:
            rough = any(n.op_type in ROUGH for n in model.graph.node)
            worst = check(model, feeds, wrt, directions=1, step=1e-3 if rough else STEP)
        except ModelError:
            outcomes["declined"] += 1
            continue
        good = worst.differences < (1e-3 if rough else 1e-4) and worst.single < 1e-3
        outcomes["right" if good else "wrong"] += 1
        if not good:
            wrong.append((name, worst))
    assert not wrong
    assert outcomes["right"] > 50
    assert outcomes["declined"] <= 0.15 * outcomes["right"]


@pytest.mark.parametrize(
    ("op", "indices", "attrs"),
    [
        ("Gather", [[2, 0], [2, 2]], {}), ("GatherElements", [[2, 0, 1, 1], [2, 0, 1, 0]], {}),
        ("GatherND", [[2], [0], [2]], {}), ("MaxPool", None, {"kernel_shape": [2, 2]}),
    ],
)  # fmt: skip
def test_sums_at_indices_run_in_half_precision(op: str, indices: list[Any] | None, attrs: dict[str, Any]) -> None:
    """onnxruntime scatters sums of float32, none of float16."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4) if indices else (1, 1, 3, 4)).astype(np.float16)
    half = onnx.TensorProto.FLOAT16
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, ["x", "i"] if indices else ["x"], ["y"], **attrs)], "g",
        [onnx.helper.make_tensor_value_info("x", half, x.shape)], [onnx.helper.make_tensor_value_info("y", half, None)],
        [onnx.numpy_helper.from_array(np.array(indices), "i")] if indices else [],
    )  # fmt: skip
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    g = np.ones_like(session(proto).run(None, {"x": x})[0])
    made = session(gradient_model(proto, ["x"])).run(["x.gradient"], {"x": x, "y.cotangent": g})[0]
    assert made.dtype == np.float16 and made.shape == x.shape
    assert made.max() >= 2 and made.sum() == g.sum()


def test_no_operator_is_both_constant_and_differentiated() -> None:
    assert not set(RULES) & CONSTANT


@pytest.mark.parametrize("operator", sorted(RULES))
def test_every_rule_states_its_equation(operator: str) -> None:
    assert "=" in (RULES[operator].__doc__ or "")
