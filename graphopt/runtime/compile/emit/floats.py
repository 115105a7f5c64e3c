"""Routines of functions of one float32 element. Functions as in `elementwise`."""

from __future__ import annotations

from math import prod

from ....kernels.elementwise.functions import prepare_float_function
from ...lower.floats.operations import FloatFunction
from ...lower.traits import Shape
from ..emitter import Inputs, RoutineEmitter, Tensor


def emit_float_function(emitter: RoutineEmitter, operation: FloatFunction, inputs: Inputs, shape: Shape) -> Tensor:
    """Elements where they lie."""
    routine = prepare_float_function(operation.function, prod(shape), operation.a, operation.b)
    return emitter.result(routine, shape, inputs[0].order, 4, x=inputs[0])
