"""RMSNormalization in every spelling, means over any axes: in the region of the products around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.runtime.test_channels import Net, agrees, feeds

SHAPE = (2, 6, 9, 8)


def root(net: Net, x: str, *, power: bool = True, epsilon: float = 1e-5, axis: int = -1, keep: int = 1) -> str:
    square = net.add("Pow", x, net.constant(np.float32(2))) if power else net.add("Mul", x, x)
    mean = net.add("ReduceMean", square, axes=[axis], keepdims=keep)
    return net.add("Add", net.constant(np.float32(epsilon)), mean)


def spelled(net: Net, x: str, spelling: str, **options: Any) -> str:
    one = net.constant(np.float32(1))
    mean = root(net, x, power=spelling != "Mul", **options)
    if spelling == "Pow":
        return net.add("Mul", x, net.add("Pow", mean, net.constant(np.float32(-0.5))))
    square_root = net.add("Sqrt", mean)
    if spelling == "Div":
        return net.add("Div", x, square_root)
    inverse = net.add("Reciprocal", square_root) if spelling == "Reciprocal" else net.add("Div", one, square_root)
    return net.add("Mul", inverse, x)


@pytest.mark.parametrize("spelling", ["Div", "Reciprocal", "Mul", "Pow"])
@pytest.mark.parametrize("quantized", [False, True])
def test_rms_norm(spelling: str, quantized: bool) -> None:
    net = Net()
    x = net.conv(net.pair("x"), 6, 8, 3)
    y = net.add("Mul", net.constant(net.rng.normal(size=8).astype(np.float32)), spelled(net, x, spelling))
    if not quantized:
        y = net.add("Add", y, x)
    model = net.model(net.pair(net.conv(net.pair(y), 8, 4), 0.07), SHAPE)
    session, kinds = agrees(model, feeds(SHAPE), 0.07)
    assert len(session.describe().parts) == 1, session.describe()
    assert kinds["LayerNorm"] == 1 and kinds["Quantize"] == (1 if quantized else 2), kinds


@pytest.mark.parametrize("given", [{"axis": 1}, {"keep": 0, "axis": 3}, {"epsilon": 0.5}])
def test_other_roots(given: Any) -> None:
    """Over another axis, without it, and one that nothing but its epsilon tells apart."""
    net, shape = Net(), (1, 6, 8, 8)
    x = net.conv(net.pair("x"), 6, 8, 3)
    y = spelled(net, x, "Reciprocal", **given)
    model = net.model(net.pair(net.conv(net.pair(y), 8, 4), 0.07), shape)
    _, kinds = agrees(model, feeds(shape), 0.07)
    assert kinds["LayerNorm"] == int("epsilon" in given)
    assert kinds["FloatMean"] == int("epsilon" not in given)


@pytest.mark.parametrize("op", ["RMSNormalization", "SimplifiedLayerNormalization"])
def test_rms_norm_as_operator(op: str) -> None:
    net = Net()
    x = net.conv(net.pair("x"), 6, 8, 3)
    y = net.add(op, x, net.constant(net.rng.normal(size=8).astype(np.float32)), epsilon=1e-3, axis=-1)
    model = net.model(net.pair(net.conv(net.pair(y), 8, 4), 0.07), SHAPE, opset=23 if op[0] == "R" else 17)
    session, kinds = agrees(model, feeds(SHAPE), 0.07)
    assert len(session.describe().parts) == 1, session.describe()
    assert kinds["LayerNorm"] == 1


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1], [1], [0, 2], [1, 3], [0, 1, 2, 3], [-2, -1, 1]])
def test_means_over_any_axes(axes: list[int], keep: int) -> None:
    """Of float32, channels last or not."""
    net = Net()
    x = net.conv(net.pair("x"), 6, 8, 3)
    mean = net.add("ReduceMean", x, axes=axes, keepdims=keep)
    if not keep:
        gone = {axis % 4 for axis in axes}
        sizes = [1 if axis in gone else size for axis, size in enumerate((2, 8, 9, 8))]
        mean = net.add("Reshape", mean, net.constant(np.array(sizes)))
    y = net.add("Sub", x, mean)
    model = net.model(net.pair(net.conv(net.pair(y), 8, 4), 0.07), SHAPE)
    _, kinds = agrees(model, feeds(SHAPE), 0.07)
    if axes not in ([0, 2], [1, 3]):  # a difference that broadcasts along two runs of axes is left
        assert kinds["FloatMean"] == 1
    assert kinds["Conv"] == 2


@pytest.mark.parametrize("groups", [0, 2])
def test_instance_and_group_normalization(groups: int) -> None:
    net = Net()
    x = net.conv(net.pair("x"), 6, 8, 3)
    sizes = groups or 8
    scale, bias = (net.constant(net.rng.normal(size=sizes).astype(np.float32)) for _ in range(2))
    given = net.add("Reshape", x, net.constant(np.array([0, groups, -1]))) if groups else x
    y = net.add("InstanceNormalization", given, scale, bias, epsilon=1e-3)
    if groups:
        y = net.add("Reshape", y, net.constant(np.array([2, 8, 9, 8])))
        y = net.add("Mul", y, net.constant(net.rng.normal(size=(8, 1, 1)).astype(np.float32)))
    model = net.model(net.pair(net.conv(net.pair(y), 8, 4), 0.0713), SHAPE)
    session, kinds = agrees(model, feeds(SHAPE), 0.0713)
    assert kinds["InstanceNorm"] == 1 and len(session.describe().parts) == 1, session.describe()


def test_instance_normalization_by_what_is_computed_stays() -> None:
    net = Net()
    x = net.conv(net.pair("x"), 6, 8, 3)
    fed = net.add("ReduceMean", net.conv(net.pair("x"), 6, 8), axes=[0, 2, 3], keepdims=0)
    y = net.add("InstanceNormalization", x, fed, fed)
    _, kinds = agrees(net.model(net.pair(net.conv(net.pair(y), 8, 4), 0.0713), SHAPE), feeds(SHAPE), 0.0713)
    assert kinds["InstanceNorm"] == 0
