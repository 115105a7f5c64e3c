"""Transposed convolutions of codes, of any stride, kernel and padding, against the reference and onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.runtime import Session
from tests.runtime.reference import check_regions
from tests.runtime.test_session import exact_session

IMAGE, OUTPUTS, STEP = (2, 5, 4, 3), 6, 0.09
FEEDS = {"x": np.random.default_rng(1).normal(0, 2, IMAGE).astype(np.float32)}


def transposed(
    kernel: tuple[int, int], attributes: dict[str, Any], *, signed: bool = True, by_channel: bool = False,
    bias: bool = True, ends: str = "Relu",
) -> onnx.ModelProto:  # fmt: skip
    """x, quantized, through a ConvTranspose with quantized weights, and Relu or Add of itself; quantized, or float."""
    rng, outputs = np.random.default_rng(2), OUTPUTS if by_channel else 1
    codes = rng.integers(-90, 90, (IMAGE[1], OUTPUTS, *kernel))
    zeros = np.full(outputs, 0 if signed else 120) + (0 if signed else rng.integers(-9, 9, outputs))
    kind = np.int8 if signed else np.uint8
    constants: dict[str, Any] = {
        "w": (codes if signed else codes + 120).astype(kind), "ws": rng.uniform(0.005, 0.02, outputs).astype("f4"),
        "wz": zeros.astype(kind), "xs": np.float32(0.03), "z": np.uint8(120), "ys": np.float32(STEP),
        "b": rng.normal(0, 1, OUTPUTS).astype(np.float32),
    }  # fmt: skip
    if not by_channel:
        constants |= {"ws": constants["ws"][0], "wz": constants["wz"][0]}
    n = helper.make_node
    nodes = [
        n("QuantizeLinear", ["x", "xs", "z"], ["xq"]), n("DequantizeLinear", ["xq", "xs", "z"], ["xd"]),
        n("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        n("ConvTranspose", ["xd", "wd", *(["b"] if bias else [])], ["c"], **attributes),
    ]  # fmt: skip
    if ends != "float":
        nodes += [n("Relu", ["c"], ["r"])] if ends == "Relu" else []
        nodes += [
            n("QuantizeLinear", ["r" if ends == "Relu" else "c", "ys", "z"], ["q"]),
            n("DequantizeLinear", ["q", "ys", "z"], ["d"]),
        ]
    if ends == "Add":
        nodes += [
            n("Add", ["d", "d"], ["a"]), n("QuantizeLinear", ["a", "ys", "z"], ["aq"]),
            n("DequantizeLinear", ["aq", "ys", "z"], ["e"]),
        ]  # fmt: skip
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *IMAGE[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((2, 2), {"strides": [2, 2]}),
        ((4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ((3, 5), {"strides": [1, 3], "pads": [0, 2, 2, 1]}),
        ((1, 2), {"strides": [3, 4]}),
        ((3, 3), {}),
        ((5, 5), {"strides": [2, 2], "pads": [4, 3, 4, 3]}),
    ],
)
@pytest.mark.parametrize("given", [{}, {"signed": False, "by_channel": True}, {"by_channel": True, "bias": False}])
def test_every_window(kernel: tuple[int, int], attributes: dict[str, Any], given: dict[str, Any]) -> None:
    model = transposed(kernel, attributes, **given)
    session = Session(model, 2, kernels=True)
    assert len(session.describe().parts) == 1, session.describe()
    assert check_regions(session, FEEDS)["ConvTranspose"] == 1
    want = exact_session(model).run(None, FEEDS)[0]
    np.testing.assert_allclose(session.run(None, FEEDS)[0], want, atol=STEP * 1.01)


@pytest.mark.parametrize("ends", ["Add", "float"])
def test_what_stands_behind(ends: str) -> None:
    """A sum with itself, which no epilogue takes; a result that stays float32."""
    model = transposed((4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, ends=ends)
    session = Session(model, 1, kernels=True)
    assert len(session.describe().parts) == 1, session.describe()
    check_regions(session, FEEDS)
    want = exact_session(model).run(None, FEEDS)[0]
    np.testing.assert_allclose(session.run(None, FEEDS)[0], want, atol=2.01 * STEP if ends == "Add" else 5e-4)


@pytest.mark.parametrize(
    "attributes",
    [{"dilations": [2, 2]}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"output_shape": [9, 7], "strides": [2, 2]}],
)
def test_others_are_left(attributes: dict[str, Any]) -> None:
    model = transposed((3, 3), attributes)
    session = Session(model, 1, kernels=True)
    assert "transposed convolution" in str(session.describe())
    want = exact_session(model).run(None, FEEDS)[0]
    np.testing.assert_allclose(session.run(None, FEEDS)[0], want, atol=STEP * 1.01)


@pytest.mark.parametrize("level", ["avx2", "portable"])
def test_lower_levels(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_ISA", level)
    model = transposed((4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]})
    assert check_regions(Session(model, 2, kernels=True), FEEDS)["ConvTranspose"] == 1
