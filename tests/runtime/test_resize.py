"""Resize of codes by whole factors, against the reference and onnxruntime; what interpolates is left, with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.runtime import Session
from tests.runtime.reference import check_regions
from tests.runtime.test_session import exact_session


def upsampled(attributes: dict[str, Any], *, sizes: list[int] | None = None, scale: float = 0.05) -> onnx.ModelProto:
    """x, quantized, through a 1×1 Conv, then a Resize by 3 and 2 that is quantized with `scale`."""
    constants: dict[str, Any] = {
        "w": np.random.default_rng(2).integers(-90, 90, (9, 4, 1, 1)).astype(np.int8), "ws": np.float32(0.02),
        "wz": np.int8(0), "xs": np.float32(0.03), "z": np.uint8(120), "cs": np.float32(0.05), "ys": np.float32(scale),
        "factors": np.array([1, 1, 3, 2], np.float32),
    }  # fmt: skip
    inputs = ["c", "", "factors"]
    if sizes is not None:
        constants["sizes"] = np.array(sizes)
        inputs = ["c", "", "", "sizes"]
    n = helper.make_node
    nodes = [
        n("QuantizeLinear", ["x", "xs", "z"], ["xq"]), n("DequantizeLinear", ["xq", "xs", "z"], ["xd"]),
        n("DequantizeLinear", ["w", "ws", "wz"], ["wd"]), n("Conv", ["xd", "wd"], ["cf"]),
        n("QuantizeLinear", ["cf", "cs", "z"], ["cq"]), n("DequantizeLinear", ["cq", "cs", "z"], ["c"]),
        n("Resize", inputs, ["r"], **attributes),
        n("QuantizeLinear", ["r", "ys", "z"], ["rq"]), n("DequantizeLinear", ["rq", "ys", "z"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 5, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


FEEDS = {"x": np.random.default_rng(1).normal(0, 2, (2, 4, 5, 6)).astype(np.float32)}
NEAREST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@pytest.mark.parametrize(
    "attributes", [NEAREST, {}, {"coordinate_transformation_mode": "pytorch_half_pixel", "mode": "nearest"}]
)
@pytest.mark.parametrize("sizes", [None, [2, 9, 10, 18]])
@pytest.mark.parametrize("scale", [0.05, 0.07])
def test_whole_factors(attributes: dict[str, Any], sizes: list[int] | None, scale: float) -> None:
    model = upsampled(attributes, sizes=sizes, scale=scale)
    session = Session(model, 2, kernels=True)
    assert "Resize" in session.describe().parts[0].operators and len(session.describe().parts) == 1
    check_regions(session, FEEDS)
    np.testing.assert_allclose(session.run(None, FEEDS)[0], exact_session(model).run(None, FEEDS)[0], atol=0.071)


@pytest.mark.parametrize("attributes", [{"mode": "linear"}, {"coordinate_transformation_mode": "align_corners"}])
def test_others_are_left(attributes: dict[str, Any]) -> None:
    model = upsampled(attributes)
    session = Session(model, 1, kernels=True)
    assert "Resize" in str(session.describe()).splitlines()[1] and "(Resize " in str(session.describe())
    np.testing.assert_allclose(session.run(None, FEEDS)[0], exact_session(model).run(None, FEEDS)[0], atol=0.051)


def test_sizes_that_are_no_multiples_run_all_the_same() -> None:
    model = upsampled(NEAREST, sizes=[2, 9, 7, 6])
    session = Session(model, 1, kernels=True)
    np.testing.assert_allclose(session.run(None, FEEDS)[0], exact_session(model).run(None, FEEDS)[0], atol=0.051)
    assert "no whole multiples" in str(session.describe())
