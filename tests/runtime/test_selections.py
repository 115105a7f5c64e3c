"""Slice, Split, Gather by a number and Expand stay in the region of the products around them: codes and floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.runtime.test_channels import Net, agrees, feeds

SHAPE = (2, 6, 8, 6)
Selection = Callable[[Net, str], str]


def numbers(net: Net, *values: int) -> str:
    return net.constant(np.array(values, np.int64))


def split(net: Net, x: str, outputs: int, *given: str, **attributes: Any) -> list[str]:
    first = net.add("Split", x, *given, **attributes)
    names = [first, *(f"{first}.{index}" for index in range(1, outputs))]
    net.nodes[-1].output[:] = names
    return names


def halves_swapped(net: Net, x: str) -> str:
    """As a rotary embedding does it."""
    a, b = split(net, x, 2, numbers(net, 3, 3), axis=-1)
    return net.add("Concat", net.add("Neg", b), a, axis=-1)


def slices(net: Net, x: str, starts: Any, ends: Any, axes: Any, steps: Any) -> str:
    return net.add("Slice", x, *(numbers(net, *given) for given in (starts, ends, axes, steps)))


def row(net: Net, x: str) -> str:
    return net.add("Unsqueeze", net.add("Gather", x, net.constant(np.int64(3)), axis=2), numbers(net, 2))


SELECTIONS: dict[str, Selection] = {
    "rows": lambda net, x: slices(net, x, [1], [-2], [2], [1]),
    "to the end": lambda net, x: slices(net, x, [-3], [1 << 62], [3], [1]),
    "channels and columns": lambda net, x: slices(net, x, [2, 1], [6, 5], [1, -1], [1, 1]),
    "every second row": lambda net, x: slices(net, x, [1], [99], [2], [2]),
    "every third column": lambda net, x: slices(net, x, [2], [8], [-1], [3]),
    "every second of five": lambda net, x: slices(net, slices(net, x, [0], [5], [2], [1]), [0], [5], [2], [2]),
    "split": lambda net, x: net.add("Add", *split(net, x, 2, numbers(net, 4, 4), axis=2)),
    "split channels": lambda net, x: split(net, x, 3, numbers(net, 2, 4, 2), axis=1)[1],
    "a row": row,
    "the last row": lambda net, x: net.add("Gather", x, numbers(net, -1), axis=2),
    "neighbours": lambda net, x: net.add("Gather", x, numbers(net, 2, 3, 4), axis=3),
    "repeated rows": lambda net, x: net.add("Expand", row(net, x), numbers(net, 1, 1, 5, 1)),
    "repeated channels": lambda net, x: net.add("Expand", slices(net, x, [0], [1], [1], [1]), numbers(net, 2, 4, 1, 6)),
    "halves swapped": halves_swapped,
}


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("form", ["floats", "codes", "other codes"])
def test_selections(name: str, form: str) -> None:
    net = Net()
    x = net.conv(net.pair("x"), 6, 8, 3)
    x = x if form == "floats" else net.pair(x, 0.05)
    y = SELECTIONS[name](net, x)
    if form == "floats":
        y = net.add("Mul", y, net.constant(np.float32(0.5)))
    y = net.pair(y, 0.05 if form == "codes" else 0.04)
    channels = {"channels and columns": 4, "split channels": 4, "repeated channels": 4}.get(name, 8)
    model = net.model(net.pair(net.conv(y, channels, 4), 0.0713), SHAPE, opset=18)
    session, kinds = agrees(model, feeds(SHAPE), 0.0713)
    assert len(session.describe().parts) == 1, session.describe()
    assert kinds["Slice"] >= 1 and kinds["Conv"] == 2


def test_expand_to_a_computed_shape() -> None:
    """Heads that serve several queries: Unsqueeze, Expand to what Shape says, Reshape."""
    net = Net()
    x = net.conv(net.pair("x"), 6, 2, 3)
    shape = net.add("Shape", x)
    parts = slices(net, shape, [0], [2], [0], [1]), numbers(net, 4), slices(net, shape, [2], [4], [0], [1])
    y = net.add("Expand", net.add("Unsqueeze", x, numbers(net, 2)), net.add("Concat", *parts, axis=0))
    y = net.add("Reshape", net.add("Mul", y, net.constant(np.float32(0.5))), numbers(net, 0, 8, 8, 6))
    model = net.model(net.pair(net.conv(net.pair(y), 8, 4), 0.07), SHAPE)
    session, kinds = agrees(model, feeds(SHAPE), 0.07)
    assert len(session.describe().parts) == 1, session.describe()
    assert kinds["Expand"] == 1


def test_expand_to_sizes_as_torch_keeps_them() -> None:
    """Where(sizes = -1, 1, sizes)."""
    net = Net()
    x = net.conv(net.pair("x"), 6, 2, 3)
    shape = net.add("Shape", x)
    parts = slices(net, shape, [0], [2], [0], [1]), numbers(net, 4), slices(net, shape, [2], [4], [0], [1])
    sizes = net.add("Concat", *parts, axis=0)
    kept = net.add("Where", net.add("Equal", sizes, numbers(net, *[-1] * 5)), numbers(net, *[1] * 5), sizes)
    y = net.add("Expand", net.add("Unsqueeze", x, numbers(net, 2)), kept)
    y = net.add("Reshape", net.add("Mul", y, net.constant(np.float32(0.5))), numbers(net, 0, 8, 8, 6))
    session, kinds = agrees(net.model(net.pair(net.conv(net.pair(y), 8, 4), 0.07), SHAPE), feeds(SHAPE), 0.07)
    assert kinds["Expand"] == len(session.describe().parts) == 1, session.describe()


@pytest.mark.parametrize("form", ["floats", "codes"])
def test_bounds_from_shapes(form: str) -> None:
    net = Net()
    x = net.conv(net.pair("x"), 6, 8, 3)
    x = net.pair(x, 0.05) if form == "codes" else x
    half = net.add("Div", slices(net, net.add("Shape", x), [2], [3], [0], [1]), numbers(net, 2))
    first = net.add("Slice", x, numbers(net, 0), half, numbers(net, 2), numbers(net, 1))
    last = net.add("Slice", x, half, numbers(net, 1 << 62), numbers(net, 2), numbers(net, 1))
    if form == "codes":
        first, last = net.pair(first, 0.05), net.pair(last, 0.04)
    model = net.model(net.pair(net.conv(net.pair(net.add("Sub", first, last)), 8, 4), 0.0713), SHAPE)
    session, kinds = agrees(model, feeds(SHAPE), 0.0713)
    assert kinds["Slice"] == 2 and len(session.describe().parts) == 1, session.describe()


@pytest.mark.parametrize("form", ["floats", "codes", "other codes", "signed"])
@pytest.mark.parametrize("value", [None, 0.7])
def test_pad(form: str, value: float | None) -> None:
    net = Net()
    x = net.conv(net.pair("x"), 6, 8, 3)
    dtype: Any = np.int8 if form == "signed" else np.uint8
    x = x if form == "floats" else net.pair(x, 0.05, 3, dtype)
    given = [] if value is None else [net.constant(np.float32(value))]
    y = net.add("Pad", x, numbers(net, 0, 1, 2, 0, 0, 0, 1, 3), *given)
    if form == "floats":
        y = net.add("Mul", y, net.constant(np.float32(0.5)))
    y = net.pair(y, 0.04 if form == "other codes" else 0.05, 3, dtype)
    session, kinds = agrees(net.model(net.pair(net.conv(y, 9, 4), 0.0713), SHAPE), feeds(SHAPE), 0.0713)
    assert kinds["Pad"] == 1 and len(session.describe().parts) == 1, session.describe()


@pytest.mark.parametrize("mode", ["reflect", "crop", "computed"])
def test_other_pads_stay(mode: str) -> None:
    net = Net()
    x = net.conv(net.pair("x"), 6, 8, 3)
    pads = numbers(net, 0, 0, -1 if mode == "crop" else 1, 0, 0, 0, 0, 0)
    if mode == "computed":
        one = net.add("Sub", slices(net, net.add("Shape", "x"), [1], [2], [0], [1]), numbers(net, 5))
        pads = net.add("Concat", numbers(net, 0, 0), one, numbers(net, 0, 0, 0, 0, 0), axis=0)
    y = net.add("Pad", x, pads, **({"mode": "reflect"} if mode == "reflect" else {}))
    _, kinds = agrees(net.model(net.pair(net.conv(net.pair(y), 8, 4), 0.0713), SHAPE), feeds(SHAPE), 0.0713)
    assert kinds["Pad"] == 0 and kinds["Conv"] == 2


@pytest.mark.parametrize("dtypes", [(np.uint8, np.uint8), (np.int8, np.uint8), (np.uint8, np.int8)])
def test_max_pool_between_scales(dtypes: Any) -> None:
    net = Net()
    x = net.pair(net.conv(net.pair("x"), 6, 8, 3), 0.05, 5, dtypes[0])
    x = net.pair(net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 0.04, 3, dtypes[1])
    session, kinds = agrees(net.model(net.pair(net.conv(x, 8, 4), 0.0713), SHAPE), feeds(SHAPE), 0.0713)
    assert kinds["MaxPool"] == 1 and len(session.describe().parts) == 1, session.describe()


def test_selections_that_are_computed_stay() -> None:
    """An index from shapes, steps backwards, an order of its own."""
    net = Net()
    x = net.pair(net.conv(net.pair("x"), 6, 8, 3), 0.05)
    size = slices(net, net.add("Shape", x), [2], [3], [0], [1])
    parts = [
        slices(net, x, [-1], [-5], [2], [-1]),
        net.add("Gather", x, net.add("Sub", size, numbers(net, 1)), axis=2),
        net.add("Gather", x, numbers(net, 3, 1), axis=2),
    ]
    y = net.add("Concat", *parts, axis=2)
    _, kinds = agrees(net.model(net.pair(net.conv(net.pair(y, 0.05), 8, 4), 0.07), SHAPE), feeds(SHAPE), 0.07)
    assert kinds["Slice"] == 0 and kinds["Conv"] == 2


def test_the_tail_of_a_classifier() -> None:
    """Sum, Relu, AveragePool and Reshape in float32 before the last product."""
    net = Net()
    first, second = (net.pair(net.conv(net.pair("x"), 6, 8, 3), 0.05) for _ in range(2))
    x = net.add("AveragePool", net.add("Relu", net.add("Sum", first, second)), kernel_shape=[8, 6])
    x = net.pair(net.add("Reshape", x, numbers(net, 0, 8, 1, 1)), 0.02)
    session, kinds = agrees(net.model(net.pair(net.conv(x, 8, 16), 0.0213), SHAPE), feeds(SHAPE), 0.0213)
    assert len(session.describe().parts) == 1, session.describe()
    assert kinds["FloatBinary"] == kinds["FloatPool"] == 1


def test_angles_for_each_sample_and_head() -> None:
    """A factor that broadcasts along two runs of axes."""
    net = Net()
    x = net.conv(net.pair("x"), 6, 8, 3)
    angles = slices(net, net.conv(net.pair("x"), 6, 8), [0, 0], [1, 1], [0, 2], [1, 1])
    model = net.model(net.pair(net.conv(net.pair(net.add("Mul", x, angles)), 8, 4), 0.0713), SHAPE)
    session, kinds = agrees(model, feeds(SHAPE), 0.0713)
    assert kinds["FloatBinary"] == 1 and len(session.describe().parts) == 1, session.describe()


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_coded_angles_for_each_sample_and_head(op: str) -> None:
    """The same between codes: for batches above one the region of a decoder was refused, and ran node by node."""
    net = Net()
    x = net.pair(net.conv(net.pair("x"), 6, 8, 3), 0.05)
    angles = net.pair(slices(net, net.conv(net.pair("x"), 6, 8), [0, 0], [1, 1], [0, 3], [1, 1]), 0.04)
    model = net.model(net.pair(net.conv(net.pair(net.add(op, x, angles), 0.06), 8, 4), 0.0713), SHAPE)
    session, kinds = agrees(model, feeds(SHAPE), 0.0713)
    assert kinds["Binary"] == 1 and len(session.describe().parts) == 1, session.describe()
