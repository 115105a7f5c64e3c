"""Emission of float32 functions of one element, means, InstanceNormalization. Functions as in `elementwise`."""

from __future__ import annotations

from math import prod

from ....kernels.elementwise.functions import prepare_float_function
from ....kernels.normalization.instance_norm import prepare_instance_norm
from ....kernels.pooling.floats import prepare_mean
from ...lower.floats.operations import FloatFunction, FloatMean, InstanceNorm
from ...lower.traits import Shape
from ..emitter import Inputs, RoutineEmitter
from ..layouts import natural, physical_shape
from ..shapes import mean_axes
from ..tensor import Tensor


def emit_float_function(emitter: RoutineEmitter, operation: FloatFunction, inputs: Inputs, shape: Shape) -> Tensor:
    """Elementwise; the order of axes stays."""
    routine = prepare_float_function(operation.function, prod(shape), operation.a, operation.b)
    return emitter.result(routine, shape, inputs[0].order, 4, x=inputs[0])


def emit_float_mean(emitter: RoutineEmitter, operation: FloatMean, inputs: Inputs, shape: Shape) -> Tensor:
    """In the order of the input if the reduced axes are neighbors in memory; else with these axes innermost."""
    x, axes = inputs[0], mean_axes(operation, len(inputs[0].shape))
    long = [axis in axes for axis in x.order if x.shape[axis] != 1]
    if sum(a and not b for a, b in zip(long, [*long[1:], False])) > 1:
        x = emitter.ordered(x, (*(a for a in x.order if a not in axes), *(a for a in x.order if a in axes)))
    places = [place for place, axis in enumerate(x.order) if axis in axes and x.shape[axis] != 1]
    sizes = physical_shape(x.shape, x.order)
    first, last = (places[0], places[-1] + 1) if places else (0, 0)
    count, inner = prod(sizes[first:last]), prod(sizes[last:])
    kept = [axis for axis in x.order if axis not in axes]
    names = {axis: place for place, axis in enumerate(sorted(kept))}
    order = x.order if operation.keep else tuple(names[axis] for axis in kept)
    return emitter.result(prepare_mean(prod(sizes[:first]), count, inner), shape, order, 4, x=x)


def emit_instance_norm(emitter: RoutineEmitter, operation: InstanceNorm, inputs: Inputs, shape: Shape) -> Tensor:
    """On planes in ONNX's order."""
    order = natural(len(shape))
    routine = prepare_instance_norm(shape[0], prod(shape[2:]), operation.scale, operation.bias, operation.epsilon)
    return emitter.result(routine, shape, order, 4, x=emitter.ordered(inputs[0], order))
