"""Feed a float input as bytes: scale, mean, deviation and layout move into the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..equivalence import Feeds
from ..errors import OptionError
from ..ir import Array, Constant, DType, Graph, Model, Node, TensorType, Value
from ..passes.fold.affine_before import add_before_conv, multiply_before_conv, multiply_before_padded_conv
from ..rewrite import Context
from .step import Judge, Step, input_names, named, reentered, same_input

OLDEST = 7
"""The first operator set in which Mul and Add broadcast as numpy does."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """The map from bytes u to a float input x: x = (u · scale − mean) / std.

    mean, std: one number, or one a channel, along axis 1 of x where its size fits, else along the last axis. layout:
    "NHWC" where u has its channels last and x has them second; "" where u has the axes of x.
    """

    scale: float = 1.0
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    layout: str = ""


@dataclass(frozen=True, slots=True)
class TakeBytes(Step):
    """A float input becomes uint8, and the model computes the former input from it.

    The factor folds into the weight of the only Conv that reads the input: W (a u) = (W a) u. The shift folds into the
    Conv's bias, W (u + c) = W u + W c, if the Conv has no padding. Padding adds zeros of x, which differ from shifted
    zeros of u: then an Add of c / a stays before the Conv. Before any other operator, Mul and Add stay.
    """

    name: str
    format: Bytes = field(default_factory=Bytes)

    def apply(self, model: Model) -> Model:
        """The model with bytes as input. OptionError where the input is no float tensor, or mean and std do not fit."""
        value = self._input(model)
        mean, std = self._spread(value, self.format.mean), self._spread(value, self.format.std)
        with np.errstate(all="ignore"):
            factor, shift = np.asarray(self.format.scale / std), np.asarray(-mean / std)
        if not (np.isfinite(factor).all() and np.isfinite(shift).all() and factor.all()):
            raise OptionError(f"uint8 {self.name!r}: scale, mean and std are finite numbers, scale and std not 0")
        steps = [("Mul", factor)] * bool((factor != 1).any()) + [("Add", shift)] * bool(shift.any())
        edited = self._behind(model, steps)
        _fold_into_conv(edited, next(v for v in edited.graph.inputs if v.name == self.name))
        return edited

    def expected(self, model: Model) -> Model:
        """The model after explicit preprocessing: times scale, minus mean, divided by std."""
        value = self._input(model)
        mean, std = self._spread(value, self.format.mean), self._spread(value, self.format.std)
        return self._behind(model, [("Mul", np.asarray(self.format.scale)), ("Sub", mean), ("Div", std)])

    def translate(self, before: Model, feeds: list[Feeds] | None, judge: Judge) -> list[Feeds] | None:
        """The bytes nearest to the given floats."""
        value = self._input(before)
        mean, std = self._spread(value, self.format.mean), self._spread(value, self.format.std)
        found = []
        for feed in feeds or ():
            pixels = np.rint((np.asarray(feed[self.name], np.float64) * std + mean) / self.format.scale)
            pixels = pixels.clip(0, 255).astype(np.uint8)
            if self.format.layout:
                pixels = np.ascontiguousarray(np.moveaxis(pixels, 1, -1))
            found.append({**feed, self.name: pixels})
        return found or None

    def _input(self, model: Model) -> Value:
        named(self.name, input_names(model), "input")
        value = next(v for v in model.graph.inputs if v.name == self.name)
        type = value.type
        known = (DType.FLOAT, DType.FLOAT16, DType.DOUBLE)
        if not isinstance(type, TensorType) or type.dtype not in known or type.shape is None or value.default:
            raise OptionError(f"uint8 {self.name!r}: expected an input of floats of known rank, it is {type}")
        if self.format.layout not in ("", "NHWC"):
            raise OptionError(f"uint8 {self.name!r}: layout {self.format.layout!r} is not NHWC, or '' for that of x")
        if self.format.layout and len(type.shape) < 3:
            raise OptionError(f"uint8 {self.name!r}: layout NHWC is for images, it is {type}")
        if model.opset < OLDEST:
            raise OptionError(
                f"uint8 {self.name!r}: needs opset {OLDEST}, the model has {model.opset}; convert it first"
            )
        return value

    def _spread(self, value: Value, given: float | Sequence[float]) -> Array:
        """Numbers per channel, float64, broadcastable to x."""
        assert isinstance(value.type, TensorType) and value.type.shape is not None
        shape, array = value.type.shape, np.asarray(given, np.float64)
        if array.size == 1:
            return array.reshape(())
        if array.ndim == 1 and len(shape) > 1 and shape[1] == array.size:
            return array.reshape(-1, *(1,) * (len(shape) - 2))
        if array.ndim == 1 and not self.format.layout and shape and shape[-1] == array.size:
            return array
        raise OptionError(f"uint8 {self.name!r}: {array.size} numbers do not fit the channels of {value.type}")

    def _behind(self, model: Model, steps: Sequence[tuple[str, Array]]) -> Model:
        """The model after Transpose (for the layout), Cast, and arithmetic with constants."""

        def enter(graph: Graph, value: Value) -> Value:
            if value.name != self.name:
                return same_input(graph, value)
            type = value.type
            assert isinstance(type, TensorType) and type.shape is not None
            shape, last = type.shape, len(type.shape) - 1
            given = (shape[0], *shape[2:], shape[1]) if self.format.layout else shape
            x = graph.add_input(Value(TensorType(DType.UINT8, given), self.name))
            if self.format.layout:
                perm = (0, last, *range(1, last))
                x = graph.append(Node("Transpose", [x], {"perm": perm}, [TensorType(DType.UINT8, shape)])).output
            wide = DType.FLOAT if type.dtype is DType.FLOAT16 and steps else type.dtype
            x = _cast(graph, x, TensorType(wide, shape))
            for op, array in steps:
                constant = Value(constant=Constant.of(array.astype(wide.numpy)))
                x = graph.append(Node(op, [x, constant], None, [x.type])).output
            return x if wide is type.dtype else _cast(graph, x, type)

        return reentered(model, enter)

    def __str__(self) -> str:
        given = self.format
        words = [f"scale {given.scale:g}", f"mean {given.mean}", f"std {given.std}", given.layout]
        return f"uint8 {self.name}: {', '.join(word for word in words if word)}"


def _cast(graph: Graph, x: Value, type: TensorType) -> Value:
    return graph.append(Node("Cast", [x], {"to": int(type.dtype)}, [type])).output


def _fold_into_conv(model: Model, given: Value) -> None:
    """Fold the arithmetic on an input into the Conv that reads it, as far as that is exact."""
    context, value = Context(), given
    while value.has_one_use and value.uses[0].node.op in ("Transpose", "Cast", "Mul", "Add"):
        value = value.uses[0].node.output
    conv = value.uses[0].node if value.has_one_use else None
    for rule in (add_before_conv, multiply_before_padded_conv, multiply_before_conv):
        if conv is None or conv.op != "Conv":
            return
        result = conv.output
        users = result.users
        if rule.apply(conv, context) is None:
            read = (v for user in users for v in user.inputs if v is not None)
            conv = next((v.producer for v in read if _is_conv(v, given)), None)


def _is_conv(value: Value, given: Value) -> bool:
    """Whether a Conv computes the value from the preprocessed input."""
    node = value.producer
    if node is None or node.op != "Conv":
        return False
    while node is not None and node.op in ("Conv", "Transpose", "Cast", "Mul", "Add"):
        x = node.inputs[0]
        if x is given:
            return True
        node = None if x is None else x.producer
    return False
