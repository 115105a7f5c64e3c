"""The integer semantics of operations in plain numpy, one after the other, in ONNX's own layout."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np

from graphopt.kernels.elementwise.error_function import erf
from graphopt.kernels.layout.interpolate import nearest_places
from graphopt.runtime import Session
from graphopt.runtime.compile.executable import hidden_addresses
from graphopt.runtime.compile.fusion import fuse
from graphopt.runtime.compile.legality import output_shape
from graphopt.runtime.compile.region_compiler import compile_region, infer_shapes
from graphopt.runtime.compile.shapes import operation_window, permutation_of
from graphopt.runtime.execute.context import ExecutionContext
from graphopt.runtime.lower import operations as o
from graphopt.runtime.lower.decoders import operations as d
from graphopt.runtime.lower.floats import operations as f
from graphopt.runtime.lower.operands import constant_array
from graphopt.runtime.lower.traits import Operation
from tests.kernels.naive import conv_sums, requantize
from tests.runtime.float_reference import REFERENCES, mapped
from tests.runtime.language_reference import LANGUAGE

Array = np.ndarray[Any, Any]
NEARLY = (
    o.LayerNorm, o.Softmax, o.Lrn, o.FloatMatMul, o.FloatPool, o.FloatSoftmax, o.Gelu, f.FloatFunction, f.FloatMean,
    f.InstanceNorm, d.CachedAttention, d.Rotary,
)  # fmt: skip
"""Operations whose codes may differ by one where they stand next to a tie, because sums are rounded in some order."""

_FLOAT_STEP = 3e-6  # relative, of a float32 sum over a row


def check_regions(session: Session, feeds: dict[str, Any]) -> Counter[str]:
    """Every value that a region computes, fused or not, equals the reference; how many operations of each kind.

    The reference of an operation is applied to what the kernels gave it: those that may differ by a code next to a tie
    (`NEARLY`) thus differ only where they stand.
    """
    kinds: Counter[str] = Counter()

    for region, arrays in session.region_inputs(feeds).items():
        segment, shapes = region.segment, tuple(array.shape for array in arrays)
        executable = region.executable(shapes)
        assert executable is not None, region.refusals
        assert not hidden_addresses(executable)
        found = dict(zip(segment.inputs, arrays))
        found |= _run(segment.operations, segment.inputs, shapes, arrays)
        for operation in segment.operations:
            inputs = [found[v] if v in found else constant_array(v) for v in operation.inputs]
            want = compute(operation, *inputs)
            assert want.shape == output_shape(operation, tuple(x.shape for x in inputs)), operation
            _compare(operation, found[operation.output], want, amplification(operation, *inputs))
            kinds[type(operation).__name__] += 1
        for value, made in _run(fused_operations(segment, shapes), segment.inputs, shapes, arrays).items():
            np.testing.assert_array_equal(made, found[value])
            assert made.dtype == found[value].dtype
        for value, made in zip(segment.outputs, region.run(arrays)):
            np.testing.assert_array_equal(made, found[value])
    return kinds


def fused_operations(segment: Any, shapes: Any) -> list[Operation]:
    """The operations that a region is compiled from, once fused."""
    return fuse(segment.operations, infer_shapes(segment.operations, segment.inputs, shapes), segment.outputs)


def _run(operations: Any, sources: Any, shapes: Any, arrays: list[Array]) -> dict[Any, Array]:
    """All values that kernels compute, none fused away."""
    values = tuple(operation.output for operation in operations)
    context = ExecutionContext(compile_region(operations, sources, values, shapes), 2)
    context.load(arrays)
    context.program.run()
    return dict(zip(values, context.results()))


def amplification(operation: Operation, *inputs: Array) -> Array:
    """By how much a norm enlarges the rounding of its mean: |scale| max|x| / σ, large for images of one colour; 0 for
    other operations."""
    if not isinstance(operation, f.InstanceNorm):
        return np.zeros(())
    x, axes = inputs[0].astype(np.float64), tuple(range(2, inputs[0].ndim))
    scale = np.abs(operation.scale).reshape(-1, *(1,) * len(axes))
    deviation = np.sqrt(x.var(axes, keepdims=True) + operation.epsilon)
    return np.asarray(scale * np.abs(x).max(axes, keepdims=True, initial=0) / deviation)


def _compare(operation: Operation, found: Array, want: Array, amplified: Array) -> None:
    assert found.shape == want.shape and found.dtype == want.dtype, operation
    if not isinstance(operation, NEARLY):
        np.testing.assert_array_equal(found, want)
    elif found.dtype == np.float32:
        atol = _FLOAT_STEP * max(1.0, float(np.nanmax(np.abs(want), initial=0)))
        with np.errstate(invalid="ignore"):
            error = np.where(np.isfinite(want), np.abs(found.astype(np.float64) - want), 0)
        assert (error <= atol + _FLOAT_STEP * (np.abs(want) + amplified))[np.isfinite(want)].all(), (
            operation,
            error.max(),
        )
        np.testing.assert_array_equal(found[~np.isfinite(want)], want[~np.isfinite(want)])
    else:
        apart = np.abs(found.astype(int) - want)
        assert apart.max(initial=0) <= 1
        assert np.mean(apart) < 0.01


@singledispatch
def compute(operation: Operation, *inputs: Array) -> Array:
    raise NotImplementedError(type(operation).__name__)


for kind, function in {**REFERENCES, **LANGUAGE}.items():
    compute.register(kind)(function)


@compute.register
def _(operation: o.Quantize, x: Array) -> Array:
    y = operation.y
    with np.errstate(all="ignore"):
        steps = np.rint(x.astype(np.float32) / np.float32(y.scale))
    steps = np.where(np.isnan(steps), 0, steps).astype(np.float64)
    return np.clip(steps + y.zero_point, y.low, y.high).astype(y.dtype)


@compute.register
def _(operation: o.Dequantize, x: Array) -> Array:
    return (x.astype(np.int32) - operation.x.zero_point).astype(np.float32) * np.float32(operation.x.scale)


@compute.register
def _(operation: o.Table, x: Array) -> Array:
    return mapped(operation.table, x)


def _finished(operation: o.LinearOperation, sums: Array) -> Array:
    assert operation.residual is None, "the reference takes operations before fusion"
    if operation.y is None:
        return np.clip(sums.astype(np.float32) * operation.scale, *operation.float_limits)
    scale = operation.scale / np.float32(operation.y.scale)
    low, high = operation.clamp or (None, None)
    codes = requantize(sums, scale, operation.y.zero_point, operation.y.dtype, low, high)
    return codes if operation.table is None else mapped(operation.table, codes)


@compute.register
def _(operation: o.Conv, x: Array) -> Array:
    weights, spatial = operation.weights, x.shape[2:]
    window = operation_window(operation, spatial)
    if weights.ndim == 3:
        weights, x = weights[:, :, None], x[:, :, None]
    sums = conv_sums(
        x.transpose(0, 2, 3, 1), weights, operation.x.zero_point, operation.weight_zero_point, operation.bias,
        window.strides, window.pads, window.dilations, operation.groups,
    )  # fmt: skip
    y = _finished(operation, sums).transpose(0, 3, 1, 2)
    return y[:, :, 0] if len(spatial) == 1 else y


@compute.register
def _(operation: o.ConvTranspose, x: Array) -> Array:
    """Each input pixel adds its product with the kernel, its phases put together again, to where the kernel lies."""
    (s, t), taps = operation.strides, operation.weights.shape[2:]
    phases = operation.weights.astype(np.int64).reshape(s, t, -1, x.shape[1], *taps)
    zero = np.reshape(operation.weight_zero_point, -1)[: operation.channels].reshape(-1, 1, 1, 1)
    kernel = phases[..., ::-1, ::-1].transpose(2, 3, 4, 0, 5, 1).reshape(-1, x.shape[1], taps[0] * s, taps[1] * t)
    centred, codes = kernel - zero, x.astype(np.int64) - operation.x.zero_point
    shape = output_shape(operation, (x.shape,))
    sums = np.zeros((*shape[:2], *(a + b + k * u for a, b, k, u in zip(shape[2:], operation.begin, taps, (s, t)))))
    for i, j in np.ndindex(*x.shape[2:]):
        where = slice(i * s, i * s + taps[0] * s), slice(j * t, j * t + taps[1] * t)
        added = np.einsum("nc,ockl->nokl", codes[:, :, i, j], centred)
        room = sums[:, :, where[0], where[1]]
        room += added[:, :, : room.shape[2], : room.shape[3]]
    (top, left), (height, width) = operation.begin, shape[2:]
    cut = sums[:, :, top : top + height, left : left + width].transpose(0, 2, 3, 1)
    bias = 0 if operation.bias is None else operation.bias[: operation.channels]
    own = replace(operation, scale=operation.scale[: operation.channels])
    return _finished(own, (cut + bias).astype(np.int32)).transpose(0, 3, 1, 2)


@compute.register
def _(operation: o.MatMul, x: Array) -> Array:
    centred = operation.weights.astype(np.int64) - np.asarray(operation.weight_zero_point, np.int64)
    sums = (x.astype(np.int64) - operation.x.zero_point) @ centred
    return _finished(operation, (sums + (0 if operation.bias is None else operation.bias)).astype(np.int32))


def _dynamic_codes(x: Array) -> tuple[Array, np.float32, int]:
    """DynamicQuantizeLinear."""
    least, greatest = min(np.float32(x.min()), np.float32(0)), max(np.float32(x.max()), np.float32(0))
    scale = np.float32((greatest - least) / np.float32(255)) or np.float32(1)
    zero = int(np.clip(np.rint(-least / scale), 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), scale, zero


@compute.register
def _(operation: o.DynamicMatMul, x: Array) -> Array:
    codes, scale, zero = _dynamic_codes(x)
    centred = operation.weights.astype(np.int64) - np.asarray(operation.weight_zero_point, np.int64)
    y = ((codes.astype(np.int64) - zero) @ centred).astype(np.float32) * (scale * operation.scale)
    return y if operation.bias is None else y + operation.bias


@compute.register
def _(operation: o.Binary, a: Array, b: Array) -> Array:
    p, q = operation.a.dequantize(a), operation.b.dequantize(b)
    function = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}[operation.kind]
    y = operation.y.quantize(function(p, q))
    return y if operation.table is None else mapped(operation.table, y)


def _windows(x: Array, operation: Any, fill: float) -> tuple[Array, Array]:
    """[taps, N, C, H', W'] of padded x, and whether each tap lies in the image."""
    window = operation_window(operation, x.shape[2:])
    if x.ndim == 3:
        x = x[:, :, None]
    height, width = (window.output_size(axis, x.shape[2 + axis]) for axis in (0, 1))
    top, left = window.pads[:2]
    taps, inside = [], []
    for i in range(window.kernel[0]):
        for j in range(window.kernel[1]):
            rows = np.arange(height) * window.strides[0] - top + i * window.dilations[0]
            columns = np.arange(width) * window.strides[1] - left + j * window.dilations[1]
            valid = ((rows >= 0) & (rows < x.shape[2]))[:, None] & ((columns >= 0) & (columns < x.shape[3]))
            taken = x[:, :, np.clip(rows, 0, x.shape[2] - 1)][..., np.clip(columns, 0, x.shape[3] - 1)]
            taps.append(np.where(valid, taken, fill))
            padded = (rows < x.shape[2] + window.pads[2])[:, None] & (columns < x.shape[3] + window.pads[3])
            inside.append(np.stack([valid, padded]))
    return np.stack(taps), np.stack(inside)


@compute.register
def _(operation: o.MaxPool, x: Array) -> Array:
    taps, _ = _windows(x, operation, int(np.iinfo(x.dtype).min))
    y = taps.max(0).astype(x.dtype)
    y = y if operation.table is None else mapped(operation.table, y)
    return y[:, :, 0] if x.ndim == 3 else y


@compute.register
def _(operation: o.AveragePool, x: Array) -> Array:
    taps, inside = _windows(x.astype(np.int32) - operation.x.zero_point, operation, 0)
    counts = inside[:, int(operation.count_include_pad)].sum(0).astype(np.float32)
    scale = np.float32(operation.x.scale) / (np.float32(operation.y.scale) * counts)
    steps = np.rint(taps.sum(0).astype(np.float32) * scale).astype(np.float64) + operation.y.zero_point
    y = np.clip(steps, operation.y.low, operation.y.high).astype(operation.y.dtype)
    return y[:, :, 0] if x.ndim == 3 else y


@compute.register
def _(operation: o.Concat, *inputs: Array) -> Array:
    parts = [x if table is None else mapped(table, x) for x, table in zip(inputs, operation.tables)]
    return np.concatenate(parts, operation.axis)


@compute.register
def _(operation: o.Resize, x: Array, *others: Array) -> Array:
    y = x if operation.table is None else mapped(operation.table, x)
    shape = output_shape(operation, tuple(a.shape for a in (x, *others)))
    for axis, (size, to) in enumerate(zip(x.shape[2:], shape[2:])):
        scale = operation.scales[axis] if operation.scales else to / size
        places = nearest_places(size, to, scale, operation.coordinates, operation.nearest)  # type: ignore[arg-type]
        y = np.take(y, places, axis + 2)
    return y


@compute.register
def _(operation: o.Transpose, x: Array) -> Array:
    return x.transpose(permutation_of(operation, x.ndim))


@compute.register
def _(operation: o.Reshape, x: Array, *others: Array) -> Array:
    return x.reshape(output_shape(operation, (x.shape, *(other.shape for other in others))))


@compute.register
def _(operation: o.ActivationMatMul, a: Array, b: Array) -> Array:
    sums = (a.astype(np.int64) - operation.a.zero_point) @ (b.astype(np.int64) - operation.b.zero_point)
    scale = np.float32(operation.a.scale) * np.float32(operation.b.scale)
    if operation.y is None:
        return sums.astype(np.float32) * scale
    factor = np.asarray(scale / np.float32(operation.y.scale))
    return requantize(sums.astype(np.int32), factor, operation.y.zero_point, operation.y.dtype)


@compute.register
def _(operation: o.ChannelTable, x: Array, *others: Array) -> Array:
    y = x
    if operation.tables is not None:
        along = np.moveaxis(x.view(np.uint8), operation.axis, -1)
        channels = np.arange(len(operation.tables)) if len(operation.tables) > 1 else np.zeros((), int)
        y = np.moveaxis(operation.tables.codes[channels, along], -1, operation.axis)
    known = dict(zip(operation.inputs[1:], others))
    for move in operation.moves:
        y = compute(move, y, *(known[value] for value in move.inputs[1:]))
    return y


@compute.register
def _(operation: o.ChannelQuantize, *inputs: Array) -> Array:
    parts, begin = [], 0
    for x, size, floats in zip(inputs, operation.sizes, operation.of_floats):
        along = np.moveaxis(x, operation.axis, -1)
        place = slice(begin, begin + size)
        if floats:
            slope, shift, scale, zero, low, high = operation.numbers[:, place]
            steps = np.rint((along * slope + shift) / scale)
            y = (np.clip(np.where(np.isnan(steps), 0, steps), low, high) + zero).astype(operation.y.dtype)
        else:
            y = operation.tables[np.arange(begin, begin + size), along.view(np.uint8)]
        parts.append(np.moveaxis(y, -1, operation.axis))
        begin += size
    return np.concatenate(parts, operation.axis)


@compute.register
def _(operation: o.FloatTable, x: Array) -> Array:
    return operation.table[x.view(np.uint8)]


@compute.register
def _(operation: o.FloatBinary, x: Array, *other: Array) -> Array:
    b = operation.constant if operation.constant is not None else other[0]
    functions = {
        "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide,
        "subtract_from": lambda p, q: q - p, "divide_into": lambda p, q: q / p,
        "prelu": lambda p, q: np.where(p > 0, p, p * q),
    }  # fmt: skip
    return np.asarray(functions[operation.kind](x, b), np.float32)


@compute.register
def _(operation: o.LayerNorm, x: Array) -> Array:
    """In float64: the kernel's float32 sums differ by a few units in the last place."""
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True) if operation.centred else wide
    y = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + operation.epsilon) * operation.scale
    y = (y if operation.bias is None else y + operation.bias).astype(np.float32)
    return y if operation.y is None else operation.y.quantize(y)


@compute.register
def _(operation: o.Softmax, x: Array) -> Array:
    real = (x.astype(np.float64) - operation.x.zero_point) * operation.x.scale
    powers = np.exp(real - real.max(-1, keepdims=True))
    return operation.y.quantize((powers / powers.sum(-1, keepdims=True)).astype(np.float32))


@compute.register
def _(operation: o.Lrn, x: Array) -> Array:
    if operation.pool_before is not None:
        x = compute(operation.pool_before, x)
    real = (x.astype(np.float64) - operation.x.zero_point) * operation.x.scale
    before, after = (operation.size - 1) // 2, operation.size // 2
    padded = np.pad(np.square(real), [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)])
    sums = np.stack([padded[:, j : j + x.shape[1]] for j in range(operation.size)]).sum(0)
    y = real / (operation.bias + operation.alpha / operation.size * sums) ** operation.beta
    codes = operation.y.quantize(y.astype(np.float32))
    return codes if operation.pool is None else compute(operation.pool, codes)


@compute.register
def _(operation: o.FloatMatMul, a: Array, b: Array) -> Array:
    return (a.astype(np.float64) @ b).astype(np.float32)


@compute.register
def _(operation: o.FloatSoftmax, x: Array) -> Array:
    with np.errstate(invalid="ignore"):
        powers = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
        y = (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
    return np.where(np.isnan(y), np.float32(operation.unknown), y)


@compute.register
def _(operation: o.Gelu, x: Array) -> Array:
    return x * (operation.plain + operation.bent * erf(np.float32(operation.inner) * x)).astype(np.float32)


@compute.register
def _(operation: o.DynamicConv, x: Array) -> Array:
    codes, scale, zero = _dynamic_codes(x)
    weights, spatial = operation.weights, x.shape[2:]
    window = operation_window(operation, spatial)
    if weights.ndim == 3:
        weights, codes = weights[:, :, None], codes[:, :, None]
    sums = conv_sums(
        codes.transpose(0, 2, 3, 1), weights, zero, operation.weight_zero_point, None, window.strides, window.pads,
        window.dilations, operation.groups,
    )  # fmt: skip
    y = sums.astype(np.float32) * (scale * operation.scale)
    y = y if operation.bias is None else y + operation.bias
    y = np.clip(y, *(np.float32(limit) for limit in operation.limits)).transpose(0, 3, 1, 2)
    return y[:, :, 0] if len(spatial) == 1 else y


@compute.register
def _(operation: o.FloatClamp, x: Array) -> Array:
    y = np.float32(operation.slope) * x + np.float32(operation.shift)
    return np.clip(y, np.float32(operation.low), np.float32(operation.high))


@compute.register
def _(operation: o.FloatPool, x: Array) -> Array:
    taps, inside = _windows(x, operation, 0 if operation.mean else -np.inf)
    counts = inside[:, int(operation.count_include_pad)].sum(0)
    y = (taps.astype(np.float64).sum(0) / counts if operation.mean else taps.max(0)).astype(np.float32)
    return y[:, :, 0] if x.ndim == 3 else y
