"""Islands: float subgraphs between DequantizeLinear and QuantizeLinear that are functions of one code, hence tables.

A chain of elementwise operators that reads one quantized tensor and scalar constants depends on one of 256 codes: it is
evaluated for all codes, operator by operator in float32. A constant along one axis, such as a bias or a
BatchNormalization's, gives a table for each index of that axis. Moves within the chain (heads split and transposed) are
applied to the codes behind the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import Declined
from ...ir import Node, TensorType, Value
from ...kernels.elementwise.error_function import erf
from ...ops import attr, version_for
from .moves import is_move
from .operands import constant_array, is_constant, is_dequantize, read_quantization

LARGEST = float(np.finfo(np.float32).max)
"""The limit of a Clip that is not given, in ONNX and onnxruntime: an infinite value becomes the largest finite one."""

Floats = npt.NDArray[np.float32]
Evaluate = Callable[[dict[Any, Floats]], Floats]
"""Computes an island's values; a mapping holds those of the islands within."""

Lines = tuple[Floats, Floats]
"""Slopes and shifts of each channel: y = slope · x + shift, product and sum rounded to float32."""

_DEPTH = 24
"""Bounds the recursion: operators of the longest chain of an island."""

_HALF_ROOT = np.float32(0.7071067811865476)  # √½


@dataclass(frozen=True, slots=True)
class Island:
    """A float value that is a function of the codes of `source`, and the nodes between them.

    `evaluate` gives float32 [256], or [channels, 256] with the channels along the source's `axis` (from the end), and
    keeps them in the mapping until all islands that need them have read them. `moves`: the nodes that move the elements
    afterwards, in order.
    """

    source: Value
    evaluate: Evaluate
    nodes: tuple[Node, ...]
    axis: int | None = None
    moves: tuple[Node, ...] = ()

    @property
    def values(self) -> Floats:
        """The values, computed anew: tables of many channels cost more than all else of finding them."""
        return self.within({})

    def within(self, known: dict[Evaluate, Floats]) -> Floats:
        """The values, computed once for all who share `known`."""
        if self.evaluate not in known:
            known[self.evaluate] = self.evaluate(known)
        return known[self.evaluate]

    @property
    def channels(self) -> int:
        """The number of channels; 1 without an axis."""
        if self.axis is None:
            return 1
        declared = self.source.type
        assert isinstance(declared, TensorType) and declared.shape is not None
        return int(str(declared.shape[self.axis]))


def island(value: Value, known: dict[Value, Island | None], depth: int = 0) -> Island | None:
    """The island of `value`; None where `value` is no function of one quantized tensor. `known` memoizes."""
    if value not in known:
        known[value] = None if depth > _DEPTH else _island(value, known, depth)
    return known[value]


def _island(value: Value, known: dict[Value, Island | None], depth: int) -> Island | None:
    node = value.producer
    if node is None or len(node.outputs) != 1:
        return None
    if is_dequantize(node):
        source = node.inputs[0]
        if source is None or is_constant(source):
            return None
        try:
            scale = read_quantization(node)
        except Declined:
            return None
        return Island(source, lambda known: scale.dequantize(scale.codes()), (node,))
    if is_move(node) and node.op != "Identity":
        inner = None if node.inputs[0] is None else island(node.inputs[0], known, depth + 1)
        return None if inner is None else replace(inner, nodes=(*inner.nodes, node), moves=(*inner.moves, node))
    if node.op == "BatchNormalization":
        return _normalized(node, known, depth)
    evaluate = _UNARY.get(node.op) or _BINARY.get(node.op)
    if evaluate is None or not node.inputs:
        return None
    return _combined(node, evaluate, known, depth)


def _combined(node: Node, evaluate: Callable[..., Any], known: dict[Value, Island | None], depth: int) -> Island | None:
    """The operator applied to islands of one source and to constants."""
    constants = [constant_array(operand) for operand in node.inputs]
    parts = [
        None if operand is None or constant is not None else island(operand, known, depth + 1)
        for operand, constant in zip(node.inputs, constants)
    ]
    islands = [part for part in parts if part is not None]
    if len(islands) != sum(o is not None and c is None for o, c in zip(node.inputs, constants)) or not islands:
        return None
    source, moves = islands[0].source, islands[0].moves
    if any(part.source is not source or part.moves != moves for part in islands):
        return None
    axes = {part.axis for part in islands if part.axis is not None}
    scalars: list[Any] = [None] * len(parts)
    for slot, constant in enumerate(constants):
        if constant is None:
            continue
        if constant.dtype != np.float32:
            return None
        if constant.size == 1 and constant.ndim <= 1:
            scalars[slot] = constant.reshape(())
            continue
        axis = None if moves else varying_axis(constant, source)
        if axis is None:
            return None
        axes.add(axis)
        scalars[slot] = constant.reshape(-1, 1)
    if len(axes) > 1:
        return None

    def compute(known: dict[Evaluate, Floats]) -> Floats:
        operands = [own if part is None else part.within(known) for part, own in zip(parts, scalars)]
        with np.errstate(all="ignore"):
            values = np.asarray(evaluate(node, *operands), np.float32)
        return np.broadcast_to(values, (*values.shape[:-1], 256))

    nodes = (*tuple(dict.fromkeys(n for part in islands for n in part.nodes)), node)
    return Island(source, compute, nodes, axes.pop() if axes else None, moves)


def _normalized(node: Node, known: dict[Value, Island | None], depth: int) -> Island | None:
    """BatchNormalization by constants of each channel, in the float32 operations of onnxruntime."""
    inner = None if node.inputs[0] is None else island(node.inputs[0], known, depth + 1)
    if inner is None or inner.moves:
        return None
    declared, lines = inner.source.type, normalization(node)
    if lines is None or not isinstance(declared, TensorType) or declared.shape is None or len(declared.shape) < 2:
        return None
    axis = 1 - len(declared.shape)
    if inner.axis not in (None, axis) or declared.shape[1] != len(lines[0]):
        return None

    def compute(known: dict[Evaluate, Floats]) -> Floats:
        with np.errstate(all="ignore"):
            return inner.within(known) * lines[0][:, None] + lines[1][:, None]

    return Island(inner.source, compute, (*inner.nodes, node), axis)


def normalization(node: Node) -> Lines | None:
    """Slopes and shifts of BatchNormalization with constants, rounded as in onnxruntime; None for any other."""
    arrays = [constant_array(node.input(slot)) for slot in (1, 2, 3, 4)]
    sizes = {None if a is None or a.dtype != np.float32 or a.ndim != 1 else a.size for a in arrays}
    if len(sizes) != 1 or None in sizes or attr(node, "training_mode", 0) or not attr(node, "spatial", 1):
        return None
    gamma, beta, mean, variance = (np.asarray(a) for a in arrays)
    with np.errstate(all="ignore"):
        scale = np.float32(1) / np.sqrt(variance + np.float32(attr(node, "epsilon", 1e-5))) * gamma
        return scale, beta - mean * scale


def varying_axis(constant: Any, source: Value) -> int | None:
    """The only axis of `constant` longer than 1, from the end, if `source` has that size there; else None."""
    long = [axis for axis, size in enumerate(constant.shape) if size != 1]
    declared = source.type
    if len(long) != 1 or not isinstance(declared, TensorType) or declared.shape is None:
        return None
    inside = constant.ndim <= len(declared.shape) and declared.shape[long[0] - constant.ndim] == constant.size
    return long[0] - constant.ndim if inside else None


def _clip(node: Node, x: Floats, low: Any = None, high: Any = None) -> Floats:
    if version_for(node) < 11:
        low, high = np.float32(attr(node, "min", -LARGEST)), np.float32(attr(node, "max", LARGEST))
    low = np.float32(-LARGEST) if low is None else low
    high = np.float32(LARGEST) if high is None else high
    return np.asarray(np.minimum(np.maximum(x, low), high))


def _sigmoid(node: Node | None, x: Floats) -> Floats:
    return np.divide(np.float32(1), np.float32(1) + np.exp(-x))


def _hard_sigmoid(node: Node, x: Floats) -> Floats:
    alpha, beta = np.float32(attr(node, "alpha", 0.2)), np.float32(attr(node, "beta", 0.5))
    return _unit(alpha * x + beta)


def _hard_swish(node: Node, x: Floats) -> Floats:
    return x * _unit(x / np.float32(6) + np.float32(0.5))


def _unit(x: Floats) -> Floats:
    """x clipped to 0 … 1."""
    return np.maximum(np.float32(0), np.minimum(np.float32(1), x))


def _elu(node: Node, x: Floats) -> Floats:
    alpha = np.float32(attr(node, "alpha", 1.0))
    return np.where(x < 0, alpha * (np.exp(x) - np.float32(1)), x).astype(np.float32)


def _celu(node: Node, x: Floats) -> Floats:
    alpha = np.float32(attr(node, "alpha", 1.0))
    below = np.minimum(np.float32(0), alpha * (np.exp(x / alpha) - np.float32(1)))
    return np.asarray(np.maximum(x, np.float32(0)) + below, np.float32)


def _selu(node: Node, x: Floats) -> Floats:
    alpha, gamma = np.float32(attr(node, "alpha", 1.67326319)), np.float32(attr(node, "gamma", 1.05070102))
    return np.where(x > 0, gamma * x, gamma * (alpha * np.exp(x) - alpha)).astype(np.float32)


def _gelu(node: Node, x: Floats) -> Floats:
    if attr(node, "approximate", "none") == "tanh":
        inner = np.float32(0.7978845608028654) * (x + np.float32(0.044715) * x * x * x)
        return (np.float32(0.5) * x * (np.float32(1) + np.tanh(inner))).astype(np.float32)
    return np.float32(0.5) * x * (np.float32(1) + _erf(None, x * _HALF_ROOT))


def _erf(node: Node | None, x: Floats) -> Floats:
    return erf(np.asarray(x, np.float32))


def _leaky(node: Node, x: Floats) -> Floats:
    return np.where(x < 0, np.float32(attr(node, "alpha", 0.01)) * x, x).astype(np.float32)


_UNARY: dict[str, Callable[..., Any]] = {
    "Relu": lambda n, x: np.maximum(x, np.float32(0)),
    "Clip": _clip,
    "Sigmoid": _sigmoid,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky,
    "Elu": _elu,
    "Tanh": lambda n, x: np.tanh(x),
    "Erf": _erf,
    "Gelu": _gelu,
    "com.microsoft::Gelu": lambda n, x: np.float32(0.5) * x * (np.float32(1) + _erf(None, x * _HALF_ROOT)),
    "com.microsoft::QuickGelu": lambda n, x: x * _sigmoid(None, np.float32(attr(n, "alpha", 1.702)) * x),
    "Softplus": lambda n, x: np.log1p(np.exp(x)),
    "Exp": lambda n, x: np.exp(x),
    "Abs": lambda n, x: np.abs(x),
    "Neg": lambda n, x: -x,
    "Sqrt": lambda n, x: np.sqrt(x),
    "Reciprocal": lambda n, x: np.float32(1) / x,
    "Identity": lambda n, x: x,
    "IsNaN": lambda n, x: np.isnan(x),
    "Log": lambda n, x: np.log(x),
    "Softsign": lambda n, x: x / (np.float32(1) + np.abs(x)),
    "Swish": lambda n, x: x * _sigmoid(None, np.float32(attr(n, "alpha", 1.0)) * x),
    "Mish": lambda n, x: x * np.tanh(np.log1p(np.exp(x))),
    "Celu": _celu,
    "Selu": _selu,
}
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": lambda n, a, b: a + b,
    "Sub": lambda n, a, b: a - b,
    "Mul": lambda n, a, b: a * b,
    "Div": lambda n, a, b: a / b,
    "Pow": lambda n, a, b: np.power(a, b),
    "PRelu": lambda n, x, slope: np.where(x < 0, x * slope, x),
    "Max": lambda n, *given: np.maximum.reduce(np.broadcast_arrays(*given)),
    "Min": lambda n, *given: np.minimum.reduce(np.broadcast_arrays(*given)),
    "Greater": lambda n, a, b: a > b,
    "Less": lambda n, a, b: a < b,
    "Where": lambda n, condition, a, b: np.where(condition != 0, a, b),
}
"""numpy functions by operator; booleans are 1 or 0."""
