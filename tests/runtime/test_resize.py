"""Resize of codes by whole factors and linear of floats, against the reference and onnxruntime; others are left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.kernels.layout.interpolate import linear_taps, nearest_places
from graphopt.runtime import Session
from tests.runtime.reference import check_regions
from tests.runtime.test_session import exact_session


def upsampled(
    attributes: dict[str, Any], *, sizes: Sequence[int] | None = None, scale: float = 0.05
) -> onnx.ModelProto:
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


@pytest.mark.parametrize("attributes", [{"mode": "cubic"}, {"coordinate_transformation_mode": "half_pixel_symmetric"}])
def test_others_are_left(attributes: dict[str, Any]) -> None:
    model = upsampled(attributes)
    session = Session(model, 1, kernels=True)
    assert "Resize" in str(session.describe()).splitlines()[1] and "(Resize " in str(session.describe())
    np.testing.assert_allclose(session.run(None, FEEDS)[0], exact_session(model).run(None, FEEDS)[0], atol=0.051)


COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


@pytest.mark.parametrize("how", COORDINATES)
@pytest.mark.parametrize(
    ("sizes", "factors"),
    [(None, (3, 2)), (None, (0.5, 1.7)), ((2, 9, 7, 11), None), ((2, 9, 1, 6), None), ((2, 9, 3, 2), None)],
)
def test_linear(how: str, sizes: tuple[int, ...] | None, factors: tuple[float, float] | None) -> None:
    """Interpolated between codes as float32, in the region of the convolution before."""
    model = upsampled({"mode": "linear", "coordinate_transformation_mode": how}, sizes=sizes)
    if factors is not None:
        (given,) = [one for one in model.graph.initializer if one.name == "factors"]
        given.CopyFrom(numpy_helper.from_array(np.array([1, 1, *factors], np.float32), "factors"))
    if sizes is not None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    session = Session(model, 2, kernels=True)
    assert len(session.describe().parts) == 1, session.describe()
    assert check_regions(session, FEEDS)["FloatResize"] == 1
    np.testing.assert_allclose(session.run(None, FEEDS)[0], exact_session(model).run(None, FEEDS)[0], atol=0.051)


@pytest.mark.parametrize("how", COORDINATES)
@pytest.mark.parametrize(("size", "out"), [(5, 15), (5, 8), (7, 3), (1, 4), (4, 1), (6, 6), (9, 10)])
def test_taps_are_onnxruntimes(how: Any, size: int, out: int) -> None:
    """Weights and places, by the rows that a matrix of unit vectors is resized to."""
    n, value = helper.make_node, helper.make_tensor_value_info
    sizes = numpy_helper.from_array(np.array([1, size, out, 1]), "sizes")
    node = n("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", coordinate_transformation_mode=how)
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, [1, size, size, 1])], [value("y", TensorProto.FLOAT, None)], [sizes]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    eye = np.eye(size, dtype=np.float32).reshape(1, size, size, 1)
    want = exact_session(model).run(None, {"x": eye})[0][0, :, :, 0]
    taps, found = linear_taps(size, out, out / size, how), np.zeros((size, out), np.float32)
    for places, weights in zip(taps.places, taps.weights):
        np.add.at(found, (places, np.arange(out)), weights)
    np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize(
    "attributes", [{"antialias": 1}, {"axes": [2, 3]}, {"coordinate_transformation_mode": "half_pixel_symmetric"}, {}]
)
def test_other_linear_ones_are_left(attributes: dict[str, Any]) -> None:
    model = upsampled({"mode": "linear", **attributes})
    model.opset_import[0].version = 19 if attributes else 10
    if not attributes:  # of an operator set without coordinates
        (resize,) = [node for node in model.graph.node if node.op_type == "Resize"]
        del resize.input[1]
    for one in model.graph.initializer:
        if one.name == "factors" and "axes" in attributes:
            one.CopyFrom(numpy_helper.from_array(np.array([3, 2], np.float32), "factors"))
    session = Session(model, 1, kernels=True)
    assert len(session.describe().parts) > 1
    np.testing.assert_allclose(session.run(None, FEEDS)[0], exact_session(model).run(None, FEEDS)[0], atol=0.051)


NEARESTS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@pytest.mark.parametrize("how", COORDINATES)
@pytest.mark.parametrize("nearest", NEARESTS)
@pytest.mark.parametrize(("size", "out"), [(5, 15), (5, 8), (7, 3), (1, 4), (4, 1), (6, 6), (9, 10)])
def test_nearest_places_are_onnxruntimes(how: Any, nearest: Any, size: int, out: int) -> None:
    n, value = helper.make_node, helper.make_tensor_value_info
    sizes = numpy_helper.from_array(np.array([1, 1, out, 1]), "sizes")
    node = n("Resize", ["x", "", "", "sizes"], ["y"], coordinate_transformation_mode=how, nearest_mode=nearest)
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, [1, 1, size, 1])], [value("y", TensorProto.FLOAT, None)], [sizes]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    want = exact_session(model).run(None, {"x": np.arange(size, dtype=np.float32).reshape(1, 1, size, 1)})[0]
    np.testing.assert_array_equal(nearest_places(size, out, out / size, how, nearest), want.reshape(-1))


@pytest.mark.parametrize("how", COORDINATES)
@pytest.mark.parametrize("nearest", NEARESTS)
@pytest.mark.parametrize(
    ("sizes", "factors"), [((2, 9, 7, 6), None), ((2, 9, 3, 11), None), (None, (0.5, 1.7)), (None, (2.5, 1.0))]
)
def test_nearest_of_any_factor(
    how: str, nearest: str, sizes: tuple[int, ...] | None, factors: tuple[float, float] | None
) -> None:
    model = upsampled({"coordinate_transformation_mode": how, "nearest_mode": nearest}, sizes=sizes)
    if factors is not None:
        (given,) = [one for one in model.graph.initializer if one.name == "factors"]
        given.CopyFrom(numpy_helper.from_array(np.array([1, 1, *factors], np.float32), "factors"))
    session = Session(model, 1, kernels=True)
    assert len(session.describe().parts) == 1, session.describe()
    assert check_regions(session, FEEDS)["Resize"] == 1
    np.testing.assert_allclose(session.run(None, FEEDS)[0], exact_session(model).run(None, FEEDS)[0], atol=0.051)


def pyramid(mode: str, *, coded: bool) -> onnx.ModelProto:
    """A level of a feature pyramid: half the size, then resized to the shape of what it is added to; codes or float."""
    rng, n = np.random.default_rng(3), helper.make_node
    constants: dict[str, Any] = {
        "w1": rng.integers(-90, 90, (8, 4, 1, 1)).astype(np.int8),
        "w2": rng.integers(-9, 9, (8, 8, 3, 3)).astype(np.int8),
        "w3": rng.integers(-90, 90, (4, 8, 1, 1)).astype(np.int8), "ws": np.float32(0.02), "wz": np.int8(0),
        "s": np.float32(0.05), "z": np.uint8(120), "two": np.array([2]), "last": np.array([4]), "none": np.array([0]),
    }  # fmt: skip
    nodes = [n("DequantizeLinear", [w, "ws", "wz"], [f"{w}d"]) for w in ("w1", "w2", "w3")]

    def quantized(name: str) -> str:
        nodes.append(n("QuantizeLinear", [name, "s", "z"], [f"{name}q"]))
        nodes.append(n("DequantizeLinear", [f"{name}q", "s", "z"], [f"{name}d"]))
        return f"{name}d"

    nodes.append(n("Conv", [quantized("x"), "w1d"], ["a"]))
    a = quantized("a")
    nodes.append(n("Conv", [a, "w2d"], ["b"], strides=[2, 2], pads=[1, 1, 1, 1]))
    b = quantized("b")
    nodes += [
        n("Shape", [a], ["as"]), n("Slice", ["as", "two", "last", "none"], ["hw"]),
        n("Shape", [b], ["bs"]), n("Slice", ["bs", "none", "two", "none"], ["nc"]),
        n("Concat", ["nc", "hw"], ["sizes"], axis=0), n("Resize", [b, "", "", "sizes"], ["r"], mode=mode),
    ]  # fmt: skip
    nodes.append(n("Add", [quantized("r") if coded else "r", a], ["sum"]))
    nodes.append(n("Conv", [quantized("sum"), "w3d"], ["y"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("coded", [False, True])
def test_sizes_that_the_model_computes(mode: str, coded: bool) -> None:
    """Odd and even sizes: at odd ones the factor is none that is whole."""
    model = pyramid(mode, coded=coded)
    session = Session(model, 1, kernels=True)
    for height, width in ((6, 8), (7, 5)):
        feeds = {"x": np.random.default_rng(4).normal(0, 2, (2, 4, height, width)).astype(np.float32)}
        assert check_regions(session, feeds)["FloatResize" if mode == "linear" else "Resize"] == 1
        want = exact_session(model).run(None, feeds)[0]
        np.testing.assert_allclose(session.run(None, feeds)[0], want, atol=0.3)
    assert len(session.describe().parts) == 1, session.describe()
