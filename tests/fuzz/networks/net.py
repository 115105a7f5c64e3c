"""A network under construction, and the layers that images and tokens share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(slots=True)
class Net:
    """A network under construction. shape: of the newest value, without the batch; None for a size that may vary."""

    rng: np.random.Generator
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    seen: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    last: str = "x"
    shape: tuple[Any, ...] = ()

    def one(self, *items: Any) -> Any:
        """One of the items."""
        return items[int(self.rng.integers(len(items)))]

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < share)

    def weight(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        """A constant of floats; its name."""
        return self.constant(self.rng.uniform(low, high, shape).astype(np.float32))

    def constant(self, array: Any) -> str:
        """A constant; its name."""
        self.weights.append(numpy_helper.from_array(np.asarray(array), f"c{len(self.weights)}"))
        return self.weights[-1].name

    def ints(self, *numbers: int) -> str:
        """A vector of int64; its name."""
        return self.constant(np.array(numbers, np.int64))

    def node(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """A node; the name of its output, or the list of them."""
        index = len(self.nodes)
        names = [f"v{index}_{i}" if outputs > 1 else f"v{index}" for i in range(outputs)]
        known = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op, inputs, names, f"n{index}", domain=domain, **known))
        return names if outputs > 1 else names[0]

    def step(self, name: str, shape: tuple[Any, ...] | None = None) -> None:
        """Go on from a value, whose shape is the last one's unless given."""
        self.seen.append((self.last, self.shape))
        self.last, self.shape = name, self.shape if shape is None else shape

    def give(self, name: str, dtype: int = TensorProto.FLOAT, rank: int | None = None) -> None:
        """Make a value an output."""
        shape = None if rank is None else [None] * rank
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))


def activation(s: Net) -> None:
    x, kind = s.last, int(s.rng.integers(16))
    plain = ("Relu", "Sigmoid", "Tanh", "Elu", "Softplus", "HardSigmoid", "Softsign", "Erf", "Abs", "Neg")
    if kind < 5:
        y = s.node(s.one(*plain), x)
    elif kind == 5:
        y = s.node("LeakyRelu", x, alpha=s.one(0.1, 0.01, 0.3))
    elif kind == 6:
        y = s.node("Clip", x, s.constant(np.float32(s.one(0, -1))), s.constant(np.float32(s.one(6, 1, 0.5))))
    elif kind == 7:
        axis = s.shape[0] if len(s.shape) == 3 else s.shape[-1]
        y = s.node("PRelu", x, s.weight(*((axis, 1, 1) if len(s.shape) == 3 else (axis,)), low=0.05, high=0.4))
    elif kind == 8:
        y = s.node("Mul", x, s.node("Sigmoid", x))
    elif kind == 9:
        e = s.node("Erf", s.node("Div", x, s.constant(np.float32(2**0.5))))
        y = s.node("Mul", s.node("Mul", x, s.node("Add", e, s.constant(np.float32(1)))), s.constant(np.float32(0.5)))
    elif kind == 10 and s.opset >= 20:
        y = s.node("Gelu", x, approximate=s.one("none", "tanh"))
    elif kind == 11:
        y = s.node("HardSwish", x) if s.opset >= 14 else s.node("Relu", x)
    elif kind == 12 and s.opset >= 18:
        y = s.node("Mish", x)
    elif kind == 13:
        y = s.node("Softmax", x, axis=s.one(-1, 1, -1))
    elif kind == 14 and s.opset >= 13:
        y = s.node(s.one("Exp", "Sqrt", "Reciprocal"), s.node("Add", s.node("Abs", x), s.constant(np.float32(0.5))))
        y = s.node("Min", y, s.constant(np.float32(8)))
    else:
        y = s.node("Relu", x)
    s.step(y)


def binary(s: Net) -> None:
    op = s.one("Add", "Mul", "Sub", "Div", "Add", "Mul", "Max", "Min")
    same = [name for name, shape in s.seen if shape == s.shape]
    if same and s.chance(0.6) and op not in ("Div", "Mul"):
        other = s.one(*same)
    else:
        known = [size if size is not None and s.chance(0.6) else 1 for size in s.shape]
        shape = known[int(s.rng.integers(len(known) + 1)) :]
        other = s.weight(*s.one(shape, [1, *known], []), low=0.3, high=1.5)
    s.step(s.node(op, *((other, s.last) if s.chance(0.3) else (s.last, other))))


def pair(s: Net) -> None:
    """A branch of two layers that is added to, or concatenated with, where it began."""
    x, shape = s.last, s.shape
    activation(s)
    binary(s)
    if s.shape != shape:
        return
    if s.chance(0.6):
        s.step(s.node("Add", x, s.last))
    elif len(shape) == 3 and shape[0] is not None and shape[0] <= 8:
        s.step(s.node("Concat", x, s.last, axis=s.one(1, -3)), (2 * shape[0], *shape[1:]))
