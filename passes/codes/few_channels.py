"""Integer convolutions over few channels, in a form that onnxruntime multiplies without copying patches.

Its kernel for unsigned codes and signed weights reads the input through pointers, four channels at a time, and rounds
at once; it requires multiples of four as input channels and output channels, and at least 16 of the latter. Any other
convolution, such as the first of an image model, takes three steps: copy patches a row of the kernel at a time,
multiply, round. Channels with weights of zero make any convolution fit; and a stride of s is a stride of one over s²
times the channels, with a kernel of fewer positions.

Both compute the same integers bit for bit. They gain on integers only: quantization for onnxruntime runs them, else
they run on demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...analysis.operands import shape_of, tensor_of
from ...errors import Declined
from ...ir import Array, DType, Node, Value
from ...ops import attr
from ...pipeline.passes import rule_pass
from ...rewrite import Builder, any_value, op, rule, weight

FOUR, LEAST = 4, 16
"""Channels of the pointer kernel: a multiple of `FOUR`, and at least `LEAST` outputs."""
MACS, ROW, POSITION = 210.0, 6.5, 0.5
"""Products a nanosecond; nanoseconds to copy a row of a patch, and to follow the pointer of a kernel position."""
APART, AT_ONCE = 0.15, 0.08
"""Nanoseconds to round one result in a step of its own, and in the kernel."""
PADDED, STACKED = 0.12, 0.2
"""Nanoseconds of Pad and of SpaceToDepth for an element of the input. These six are fitted to profiles of onnxruntime
on one core with AVX-512; only their ratios matter, and near a tie either form will do. `python -m tests.bench.rules
pad_channels stack_strides` prints the gain of each form, `python -m tests.bench.light_int8` that of whole models."""


@dataclass(frozen=True, slots=True)
class ConvSize:
    """Input channels, output channels (`results`), and height and width of the kernel: they determine the time."""

    channels: int
    results: int
    height: int
    width: int

    @property
    def cost(self) -> float:
        """Nanoseconds for one position of the result."""
        positions = self.height * self.width
        products = positions * self.channels * self.results / MACS
        if self.channels % FOUR or self.results % FOUR or self.results < LEAST:
            return products + ROW * self.height + APART * self.results
        return products + POSITION * positions + AT_ONCE * self.results


@dataclass(frozen=True, slots=True)
class Form:
    """A form of a convolution: channels to add, or the stride to turn into channels (1: none)."""

    added: int
    stacked: int


def choose(size: ConvSize, stride: int, pads: Sequence[int], divides: bool) -> Form:
    """The cheapest form. pads: before the first row and column; divides: the stride divides height and width."""
    read = size.channels * stride * stride  # elements of the input for each position of the result
    costs = {Form(0, 1): size.cost}
    more = -size.channels % FOUR
    if more:
        costs[Form(more, 1)] = replace(size, channels=size.channels + more).cost + PADDED * read
    if stride > 1 and divides:
        rows, columns = _blocks(size.height, stride, pads[0]), _blocks(size.width, stride, pads[1])
        deep = ConvSize(size.channels * stride * stride, size.results, len(rows), len(columns))
        costs[Form(0, stride)] = deep.cost + STACKED * read
    return min(costs, key=costs.__getitem__)


def _blocks(size: int, stride: int, pad: int) -> range:
    """The blocks of `stride` elements that a kernel of `size` elements reads, counted from the block of the result."""
    return range(-pad // stride, (size - 1 - pad) // stride + 1)


_CONV = op.Conv(
    op.DequantizeLinear(any_value(), any_value(), any_value(optional=True), shared=True, name="read"),
    op.DequantizeLinear(weight(), weight(), weight(optional=True), shared=True, name="kernel"),
    any_value(optional=True),
    name="conv",
)


@rule(_CONV, min_opset=13)
def pad_channels(build: Builder, read: Node, kernel: Node, conv: Node) -> Value:
    """conv(dq(x), dq(W)) = conv(dq(pad(x)), dq(pad(W))), for channels of zero weights up to a multiple of four"""
    codes = _codes(read, kernel, conv)
    added = _form(read, conv, codes).added
    if not added:
        raise Declined("the channels are a multiple of four, or padding them takes longer")
    ends, fill = np.array([0, 0, 0, 0, 0, added, 0, 0], np.int64), read.input(2)
    padded = build.node("Pad", read.inputs[0], ends, np.uint8(0) if fill is None else fill, name=_named(conv, "pad"))
    return _convolved(build, padded, np.pad(codes, ((0, 0), (0, added), (0, 0), (0, 0))), read, kernel, conv)


@rule(_CONV, min_opset=13)
def stack_strides(build: Builder, read: Node, kernel: Node, conv: Node) -> Value:
    """conv(dq(x), dq(W), stride n) = conv(dq(space_to_depth(x, n)), dq(V)), where V holds W and zeros"""
    codes = _codes(read, kernel, conv)
    stride = _form(read, conv, codes).stacked
    if stride == 1:
        raise Declined("strides of one over more channels take longer")
    pads, sizes = _pads(conv), _sizes(read)
    before, after = [], []
    for axis, size in enumerate(codes.shape[2:]):
        blocks = _blocks(size, stride, pads[axis])
        results = (sizes[axis] + pads[axis] + pads[axis + 2] - size) // stride + 1
        before.append(-blocks.start)
        after.append(results - 1 + blocks.stop - sizes[axis] // stride)
    if min(after) < 0:
        raise Declined("rows or columns are not read")
    stacked = build.node("SpaceToDepth", read.inputs[0], blocksize=stride, name=_named(conv, "stack"))
    deep = _stacked(codes, stride, pads)
    attrs = {"kernel_shape": deep.shape[2:], "strides": (1, 1), "pads": (*before, *after)}
    return _convolved(build, stacked, deep, read, kernel, conv, **attrs)


def _stacked(codes: Array, stride: int, pads: Sequence[int]) -> Array:
    """Weights [N, C, KH, KW] for the result of SpaceToDepth: [N, n n C, blocks, blocks]."""
    results, channels, height, width = codes.shape
    rows, columns = _blocks(height, stride, pads[0]), _blocks(width, stride, pads[1])
    deep = np.zeros((results, stride, stride, channels, len(rows), len(columns)), codes.dtype)
    for i in range(height):
        for j in range(width):
            (down, y), (right, x) = divmod(i - pads[0], stride), divmod(j - pads[1], stride)
            deep[:, y, x, :, down - rows.start, right - columns.start] = codes[:, :, i, j]
    return deep.reshape(results, stride * stride * channels, len(rows), len(columns))


def _codes(read: Node, kernel: Node, conv: Node) -> Array:
    """The codes of the weights, int8[N,C,KH,KW]; Declined where onnxruntime uses no kernel, or one for other types."""
    x, stored, scale, zeros = tensor_of(read.inputs[0]), *(kernel.constant(slot) for slot in range(3))
    assert stored is not None and scale is not None
    if x is None or x.dtype is not DType.UINT8 or stored.dtype is not DType.INT8:
        raise Declined("not unsigned codes and signed weights")
    if zeros is not None and zeros.array().any():
        raise Declined("the zero of the weights has another code")
    if len(stored.shape) != 4 or attr(conv, "group", 1) != 1 or 0 in stored.shape:
        raise Declined("not a plain convolution of images")
    if scale.size != 1 and (scale.shape != stored.shape[:1] or attr(kernel, "axis", 1) != 0):
        raise Declined("the scales of the weights are not along its results")
    if attr(conv, "auto_pad", "NOTSET") != "NOTSET":
        raise Declined("the padding is chosen automatically")
    clamps = [use.node for use in conv.output.uses if use.node.op in ("Relu", "Clip")]
    if not any(use.node.op == "QuantizeLinear" for node in (conv, *clamps) for use in node.output.uses):
        raise Declined("the result is not quantized")
    return stored.array()


def _pads(conv: Node) -> tuple[int, ...]:
    return tuple(int(v) for v in attr(conv, "pads", None) or (0, 0, 0, 0))


def _sizes(read: Node) -> list[int]:
    """Height and width of the input; fewer numbers where they are unknown."""
    return [size for size in (shape_of(read.inputs[0]) or ())[2:] if isinstance(size, int)]


def _form(read: Node, conv: Node, codes: Array) -> Form:
    """The cheapest form of a convolution. Unequal strides and dilated kernels are not stacked."""
    results, channels, height, width = codes.shape
    strides = tuple(attr(conv, "strides", None) or (1, 1))
    whole = strides[0] == strides[1] and all(d == 1 for d in attr(conv, "dilations", None) or ())
    stride, sizes = int(strides[0]) if whole else 1, _sizes(read)
    divides = len(sizes) == 2 and all(size % stride == 0 for size in sizes)
    return choose(ConvSize(channels, results, height, width), stride, _pads(conv), divides)


def _named(conv: Node, suffix: str) -> str:
    """A name by which a profile assigns a new node to the convolution."""
    return f"{conv.name}{suffix}" if conv.name else ""


def _convolved(build: Builder, x: Value, codes: Array, read: Node, kernel: Node, conv: Node, **attrs: Any) -> Value:
    """The convolution of the codes `x` with the weights `codes`, on the same scales."""
    old = kernel.inputs[0]
    stored = build.constant(np.ascontiguousarray(codes), "" if old is None else old.name)
    floats = build.node(read.op, x, *read.inputs[1:], attrs=read.attrs)
    weights = build.node(kernel.op, stored, *kernel.inputs[1:], attrs=kernel.attrs)
    return build.copy(conv, [floats, weights, conv.input(2)], **attrs)


widen_channels = rule_pass("widen-channels", stack_strides, pad_channels)
