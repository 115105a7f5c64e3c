"""Functions of one float32 element, by name and spelled, stay in the region of the products around them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from graphopt.runtime import Session
from tests.runtime.reference import check_regions
from tests.runtime.test_channels import Net, agrees, feeds
from tests.runtime.test_session import exact_session

Spelling = Callable[[Net, str], str]


def constant(net: Net, value: float) -> str:
    return net.constant(np.float32(value))


def tanh_gelu(net: Net, x: str, *, order: int = 0, cubic: float = 0.044715) -> str:
    cube = net.add("Pow", x, constant(net, 3)) if order else net.add("Mul", net.add("Mul", x, x), x)
    inner = net.add("Add", x, net.add("Mul", cube, constant(net, cubic)))
    curve = net.add("Tanh", net.add("Mul", constant(net, 0.7978845608), inner))
    if order == 2:  # x / 2 + x / 2 tanh
        half = net.add("Mul", x, constant(net, 0.5))
        return net.add("Mul", net.add("Add", half, net.add("Mul", half, curve)), constant(net, 1))
    return net.add("Mul", net.add("Mul", constant(net, 0.5), x), net.add("Add", curve, constant(net, 1)))


SPELLINGS: dict[str, Spelling] = {
    "sigmoid": lambda net, x: net.add("Sigmoid", x),
    "silu": lambda net, x: net.add("Mul", net.add("Sigmoid", x), x),
    "quick": lambda net, x: net.add("Mul", x, net.add("Sigmoid", net.add("Mul", constant(net, 1.702), x))),
    "tanh": lambda net, x: net.add("Tanh", x),
    "gelu of products": tanh_gelu,
    "gelu of Pow": lambda net, x: tanh_gelu(net, x, order=1),
    "gelu multiplied out": lambda net, x: tanh_gelu(net, x, order=2),
    "hard swish": lambda net, x: net.add("HardSwish", x),
    "hard swish spelled": lambda net, x: net.add("Mul", x, net.add("HardSigmoid", x, alpha=1 / 6)),
    "leaky": lambda net, x: net.add("LeakyRelu", x, alpha=0.2),
    "prelu": lambda net, x: net.add("PRelu", x, constant(net, 0.2)),
    "elu": lambda net, x: net.add("Elu", x, alpha=0.7),
    "square root": lambda net, x: net.add("Sqrt", net.add("Abs", x)),
    "exp": lambda net, x: net.add("Reciprocal", net.add("Add", net.add("Exp", net.add("Neg", x)), constant(net, 1))),
    "erf": lambda net, x: net.add("Erf", x),
    "guard": lambda net, x: net.add("Where", net.add("IsNaN", x), constant(net, 0.5), x),
    "guard of roots": lambda net, x: SPELLINGS["guard"](net, net.add("Sqrt", x)),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_functions_of_floats(name: str) -> None:
    """Between a product that gives float32 and QuantizeLinear."""
    net = Net()
    x = net.conv(net.pair("x"), 6, 8, 3)
    model = net.model(net.pair(net.conv(net.pair(SPELLINGS[name](net, x)), 8, 4), 0.07))
    session, kinds = agrees(model, feeds(), 0.07)
    assert len(session.describe().parts) == 1, session.describe()
    assert kinds["Conv"] == 2 and kinds["FloatFunction"] >= 1
    if name in ("silu", "quick", "hard swish spelled") or name.startswith("gelu"):
        assert kinds["FloatFunction"] == 1 and kinds["FloatBinary"] == 0, "one function takes the spelling's place"


@pytest.mark.parametrize("name", SPELLINGS)
def test_functions_of_codes_are_tables(name: str) -> None:
    net = Net()
    x = net.pair(net.conv(net.pair("x"), 6, 8, 3), 0.05)
    model = net.model(net.pair(net.conv(net.pair(SPELLINGS[name](net, x)), 8, 4), 0.07))
    session, kinds = agrees(model, feeds(), 0.07)
    assert len(session.describe().parts) == 1, session.describe()
    assert kinds["Table"] == 1 and kinds["FloatFunction"] == 0


@pytest.mark.parametrize("op", ["Softsign", "Selu", "Celu", "Mish", "Softplus"])
def test_more_tables(op: str) -> None:
    net = Net()
    x = net.pair(net.conv(net.pair("x"), 6, 8, 3), 0.05)
    _, kinds = agrees(net.model(net.pair(net.conv(net.pair(net.add(op, x)), 8, 4), 0.07), opset=22), feeds(), 0.07)
    assert kinds["Table"] == 1


@pytest.mark.parametrize("cubic", [0.0, 0.1])
def test_other_curves_are_what_they_are(cubic: float) -> None:
    """Not Gelu's constants, and tanh of something else; and a product of the curve alone."""
    net = Net()
    x = net.conv(net.pair("x"), 6, 8, 3)
    other = net.conv(net.pair("x"), 6, 8, 3)
    x = net.add("Add", tanh_gelu(net, x, cubic=cubic), net.add("Mul", x, net.add("Sigmoid", other)))
    x = net.add("Mul", x, net.add("Tanh", net.add("Mul", x, x)))
    agrees(net.model(net.pair(net.conv(net.pair(x), 8, 4), 0.07)), feeds(), 0.07)


def test_rows_that_a_mask_leaves_nothing() -> None:
    """Softmax of −inf alone is NaN, which the guard of attention makes 0; another reader of the NaN still finds it."""
    for read in (False, True):
        net = Net()
        x = net.conv(net.pair("x"), 6, 6, 3)
        mask = np.zeros((9, 7), np.float32)
        mask[3], mask[4, 2:] = -np.inf, -np.inf
        p = net.add("Softmax", net.add("Add", x, net.constant(mask)), axis=-1)
        guarded = net.add("Where", net.add("IsNaN", p), constant(net, 0), p)
        if read:
            guarded = net.add("Add", guarded, net.add("Where", net.add("IsNaN", p), constant(net, 1), p))
        model = net.model(net.pair(net.conv(net.pair(guarded, 0.0113), 6, 4), 0.0237))
        session, kinds = agrees(model, feeds(), 0.0237)
        assert kinds["FloatFunction"] == 2 * read and kinds["FloatSoftmax"] == 1
        assert len(session.regions) == len(session.describe().parts) == 1


def test_where_of_other_conditions_stays() -> None:
    net = Net()
    x = net.conv(net.pair("x"), 6, 6, 3)
    y = net.add("Where", net.add("IsNaN", x), x, constant(net, 0))
    model = net.model(net.pair(net.conv(net.pair(net.add("Add", x, y)), 6, 4), 0.07))
    session = Session(model, 1, kernels=True)
    check_regions(session, feeds())
    want = exact_session(onnx.load_from_string(model)).run(None, feeds())[0]
    assert np.abs(session.run(None, feeds())[0] - want).max() <= 0.0701
    assert any("Where" in part.operators and part.where == "onnxruntime" for part in session.describe().parts)
