"""Lowering of vision operators: LRN of codes; pools, clips and Concat of float32; QuantizeLinear by channel.

The float32 operators stand between dynamically quantized convolutions. QuantizeLinear by channel is fused with its
producers: a chain Concat → BatchNormalization → Relu → QuantizeLinear, as in dense blocks, is a function of one element
and of constants of its channel. Dequantized inputs of the Concat stay codes: a table, or a proved line, by channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...errors import Declined
from ...ir import Array, Node, TensorType, Value
from ...kernels.elementwise.proved_lines import proved_lines
from ...kernels.normalization.lrn import MAX_SIZE
from ...kernels.tensors.quantization import Quantization
from ...ops import attr, version_for
from .builders import check_unused_indices, max_pool, window_attributes
from .moves import keeps_shape
from .operands import (
    are_floats,
    constant_array,
    declared_shape,
    dequantized_source,
    ints,
    is_constant,
    is_float32,
    read_quantization,
    written_quantization,
)
from .operations import ChannelQuantize, Concat, DynamicConv, FloatClamp, FloatPool, Lrn, MaxPool
from .tables import LARGEST, Island, Lines, island, normalization
from .traits import Operation

_MOST = 256
"""The most tensors that one operation joins; derived: a dense block of 58 layers has 59."""


def lrn(
    node: Node, source: Value, output: Value, nodes: tuple[Node, ...], x: Quantization, y: Quantization,
    pool: MaxPool | None = None,
) -> Lrn:  # fmt: skip
    """LRN of codes, with `pool` where a MaxPool stands between LRN and QuantizeLinear."""
    if len(declared_shape(source)) not in (3, 4) or not 0 < int(node.attrs["size"]) <= MAX_SIZE:
        raise Declined("LRN of other than an image, or over too many channels")
    return Lrn(
        inputs=(source,), output=output, nodes=nodes, x=x, y=y, size=int(node.attrs["size"]),
        alpha=float(attr(node, "alpha", 1e-4)), beta=float(attr(node, "beta", 0.75)),
        bias=float(attr(node, "bias", 1.0)), pool=pool,
    )  # fmt: skip


def spelled_lrn(
    node: Node, output: Value, nodes: tuple[Node, ...], y: Quantization, pool: MaxPool | None = None
) -> Lrn | None:
    """LRN as the subgraph that the pass `spell-powers` writes for onnxruntime, with last node `node`; else None.

    x / (√b · √√b) with b = bias + alpha · mean of x² over neighboring channels; x dequantized, optionally by a MaxPool.
    """
    x, power = (node.input(slot) for slot in (0, 1))
    chain = _chain(power, ("Mul", "Sqrt", "Add", "Mul", "Squeeze", "AveragePool", "Unsqueeze", "Mul"))
    if node.op != "Div" or x is None or chain is None:
        return None
    both, root, added, scaled, squeeze, mean, unsqueeze, square = chain
    fourth = [v.producer for v in both.inputs if v is not None and v is not root.output]
    kernel, bias, alpha = ints(mean, "kernel_shape", ()), _scalar_of(added), _scalar_of(scaled)
    size = kernel[0] if len(kernel) == 3 else 0
    if len(fourth) != 1 or fourth[0] is None or fourth[0].op != "Sqrt" or fourth[0].inputs[0] is not root.output:
        return None
    if bias is None or alpha is None or any(v is not x for v in square.inputs) or not 0 < size <= MAX_SIZE:
        return None
    window = window_attributes(mean, 3)
    plain = window["pads"] == ((size - 1) // 2, 0, 0, size // 2, 0, 0) and window["auto_pad"] == "NOTSET"
    if not plain or {*kernel[1:], *window["strides"], *window["dilations"]} != {1} or attr(mean, "ceil_mode", 0):
        return None
    if not attr(mean, "count_include_pad", 0) or any(_axes(moved) != (1,) for moved in (squeeze, unsqueeze)):
        return None
    before = x.producer if x.producer is not None and x.producer.op == "MaxPool" else None
    source, read = dequantized_source(x if before is None else before.inputs[0])
    if len(declared_shape(source)) != 4:
        return None
    covered = (square, unsqueeze, mean, squeeze, scaled, added, root, fourth[0], both)
    return Lrn(
        inputs=(source,), output=output, nodes=(*(() if before is None else (before,)), *covered, *nodes), x=read, y=y,
        size=size, alpha=alpha, beta=0.75, bias=bias, pool=pool,
        pool_before=None if before is None else max_pool(before, source, x, (before,), read.signed),
    )  # fmt: skip


def _chain(value: Value | None, operators: tuple[str, ...]) -> list[Node] | None:
    """The chain of producers with these operators, along the first computed operand of each; None for another chain."""
    nodes: list[Node] = []
    for op in operators:
        node = None if value is None else value.producer
        if node is None or node.op != op:
            return None
        nodes.append(node)
        value = next((v for v in node.inputs if v is not None and not is_constant(v)), None)
    return nodes


def _scalar_of(node: Node) -> float | None:
    """The constant operand of an Add or Mul if it is a single number, else None."""
    arrays = [a for a in map(constant_array, node.inputs) if a is not None]
    return float(arrays[0].reshape(())) if len(arrays) == 1 and arrays[0].size == 1 else None


def _axes(node: Node) -> tuple[int, ...]:
    array = constant_array(node.input(1))
    return ints(node, "axes", ()) if array is None else tuple(int(v) for v in array.reshape(-1).tolist())


def clip_bounds(node: Node) -> tuple[float, float] | None:
    """The constant limits of Relu or Clip; None where they are not constant or cross. A Clip without a limit has the
    largest number in its place."""
    if node.op == "Relu":
        return 0.0, float(np.inf)
    if version_for(node) < 11:
        return float(attr(node, "min", -LARGEST)), float(attr(node, "max", LARGEST))
    bounds = [-LARGEST, LARGEST]
    for slot in (1, 2):
        limit = node.input(slot)
        if limit is None:
            continue
        array = constant_array(limit)
        if array is None or array.size != 1 or np.isnan(array).any():
            return None
        bounds[slot - 1] = float(array.reshape(()))
    return (bounds[0], bounds[1]) if bounds[0] <= bounds[1] else None


def float_clamp(node: Node, known: Mapping[Value, Operation]) -> FloatClamp | DynamicConv | None:
    """Relu or Clip of float32, fused into a dynamic convolution before it that has no other reader."""
    bounds = clip_bounds(node)
    if bounds is None or not are_floats(node, known):
        return None
    x = node.inputs[0]
    assert x is not None
    before = known.get(x)
    if isinstance(before, DynamicConv) and before.limits == (-np.inf, np.inf) and len(x.uses) == 1:
        return replace(before, output=node.output, nodes=(*before.nodes, node), limits=bounds)
    return FloatClamp(inputs=(x,), output=node.output, nodes=(node,), low=bounds[0], high=bounds[1])


def hard_sigmoid(node: Node, known: Mapping[Value, Operation]) -> FloatClamp | None:
    """HardSigmoid of float32: a line between 0 and 1."""
    x = node.inputs[0]
    if x is None or not are_floats(node, known):
        return None
    slope, shift = float(attr(node, "alpha", 0.2)), float(attr(node, "beta", 0.5))
    return FloatClamp(inputs=(x,), output=node.output, nodes=(node,), slope=slope, shift=shift, low=0.0, high=1.0)


def float_pool(node: Node, known: Mapping[Value, Operation]) -> FloatPool | None:
    """MaxPool, AveragePool and GlobalAveragePool of float32."""
    x = node.inputs[0]
    if x is None or not are_floats(node, known):
        return None
    declared = x.type
    assert isinstance(declared, TensorType)
    if declared.shape is None or len(declared.shape) not in (3, 4):
        raise Declined("a pool of other than an image")
    check_unused_indices(node)
    if node.op == "GlobalAveragePool":
        return FloatPool(inputs=(x,), output=node.output, nodes=(node,), mean=True)
    kernel = ints(node, "kernel_shape", ())
    return FloatPool(
        inputs=(x,), output=node.output, nodes=(node,), mean=node.op == "AveragePool", kernel=kernel,
        ceil_mode=bool(attr(node, "ceil_mode", 0)), count_include_pad=bool(attr(node, "count_include_pad", 0)),
        **window_attributes(node, len(kernel)),
    )  # fmt: skip


def float_concat(node: Node, known: Mapping[Value, Operation]) -> Concat | None:
    """Concat of float32 tensors, all computed by kernels."""
    inputs = tuple(value for value in node.inputs if value is not None)
    if not are_floats(node, known) or not all(value in known for value in inputs):
        return None
    return Concat(
        inputs=inputs, output=node.output, nodes=(node,), axis=int(node.attrs["axis"]), tables=(None,) * len(inputs),
        floats=True,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Grid:
    """QuantizeLinear's scales and zero points, float32 and int64 of each channel along `axis` of `rank` axes."""

    scales: npt.NDArray[np.float32]
    zeros: npt.NDArray[np.int64]
    y: Quantization

    def quantize(self, values: npt.NDArray[np.float32], limits: list[tuple[float, float]]) -> Array:
        """Codes of float32 [channels, any], clipped to each of `limits` first."""
        for low, high in limits:
            values = np.minimum(np.maximum(values, np.float32(low)), np.float32(high))
        with np.errstate(all="ignore"):
            steps = np.rint(values / self.scales[:, None])
        steps = np.where(np.isnan(steps), np.float32(0), steps).astype(np.float64) + self.zeros[:, None]
        return np.clip(steps, self.y.low, self.y.high).astype(self.y.dtype)


def is_by_channel(node: Node) -> bool:
    """Whether QuantizeLinear has a constant scale for each of several channels, not in blocks."""
    scale = constant_array(node.input(1))
    return scale is not None and scale.ndim == 1 and scale.size > 1 and not node.attrs.get("block_size")


def quantized_by_channel(
    node: Node, known: Mapping[Value, Operation], islands: dict[Value, Island | None]
) -> ChannelQuantize:
    """QuantizeLinear `node` fused with the nodes before it. Declined where these are not one line a channel."""
    x = node.inputs[0]
    assert x is not None
    shape = declared_shape(x)
    limits, lines, covered, x = _before(x, shape)
    axis = 1 if lines is not None else int(attr(node, "axis", 1)) % max(1, len(shape))
    if len(shape) < 2 or not isinstance(shape[axis], int):
        raise Declined("channels whose number is not known")
    channels = int(str(shape[axis]))
    grid = _grid(node, axis, len(shape), channels)
    parts = _side_by_side(x, axis, covered)
    functions = [_function(part, axis - len(shape), islands) for part in parts]
    sizes = [_size(part, axis, len(shape)) for part in parts]
    if sum(sizes) != channels or (lines is not None and len(lines[0]) != channels):
        raise Declined("channels that do not add up")
    for part, function in zip(parts, functions):
        made = part in known and known[part].writes_float
        if function is None and not made and (len(parts) > 1 or lines is not None or not is_float32(part)):
            raise Declined("a part that kernels do not make")
    return _operation(node, grid, limits, lines, axis - len(shape), (parts, functions, sizes), covered)


def _before(x: Value, shape: object) -> tuple[list[tuple[float, float]], Lines | None, list[Node], Value]:
    """Limits of Relu and Clip, innermost first; lines of a BatchNormalization before them; nodes of both; input."""
    limits: list[tuple[float, float]] = []
    covered: list[Node] = []
    producer = x.producer
    while producer is not None and producer.inputs and producer.inputs[0] is not None:
        bounds = clip_bounds(producer) if producer.op in ("Relu", "Clip") else None
        if bounds is not None:
            limits.insert(0, bounds)
        elif not keeps_shape(producer):
            break
        covered.insert(0, producer)
        x = producer.inputs[0]
        producer = x.producer
    if producer is None or producer.op != "BatchNormalization" or producer.inputs[0] is None:
        return limits, None, covered, x
    lines = normalization(producer)
    if lines is None:
        raise Declined("BatchNormalization by other than constants")
    return limits, lines, [producer, *covered], producer.inputs[0]


def _grid(node: Node, axis: int, rank: int, channels: int) -> _Grid:
    scale, zero = constant_array(node.input(1)), constant_array(node.input(2))
    if not is_by_channel(node):
        one = written_quantization(node)
        ones = np.ones(channels)
        return _Grid((ones * one.scale).astype(np.float32), (ones * one.zero_point).astype(np.int64), one)
    if int(attr(node, "axis", 1)) % rank != axis:
        raise Declined("scales along another axis than the lines before")
    assert scale is not None
    if zero is None or zero.dtype not in (np.uint8, np.int8) or scale.dtype != np.float32 or zero.shape != scale.shape:
        raise Declined("scales or zero points of an unusual type")
    if scale.size != channels or not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        raise Declined("scales that are not one positive number a channel")
    same = int(zero[0]) if np.all(zero == zero[0]) else 0
    return _Grid(scale, zero.astype(np.int64), Quantization(1.0, same, zero.dtype == np.int8))


def _side_by_side(x: Value, axis: int, covered: list[Node]) -> list[Value]:
    """The inputs, in order, of the nested Concats along the axis that compute `x`; `x` itself without a Concat."""
    parts: list[Value] = []
    stack = [x]
    while stack:
        value = stack.pop()
        producer = value.producer
        if producer is None or producer.op != "Concat" or any(v is None or is_constant(v) for v in producer.inputs):
            parts.append(value)
            continue
        if int(producer.attrs["axis"]) % len(declared_shape(value)) != axis:
            raise Declined("tensors that do not stand side by side along the channels")
        covered.append(producer)
        stack += [v for v in reversed(producer.inputs) if v is not None]
        if len(parts) > _MOST:
            raise Declined("too many tensors side by side")
    return parts


def _function(part: Value, axis: int, islands: dict[Value, Island | None]) -> Island | None:
    """The island of a part, a function of code and channel; None where the part is read as float32."""
    function = island(part, islands)
    return None if function is None or function.moves or function.axis not in (None, axis) else function


def _size(part: Value, axis: int, rank: int) -> int:
    shape = declared_shape(part)
    if len(shape) != rank or not isinstance(shape[axis], int):
        raise Declined("a part whose channels are not known")
    return int(str(shape[axis]))


def _operation(
    node: Node, grid: _Grid, limits: list[tuple[float, float]], lines: Lines | None, axis: int,
    parts: tuple[list[Value], list[Island | None], list[int]], covered: list[Node],
) -> ChannelQuantize:  # fmt: skip
    channels = len(grid.scales)
    slopes, shifts = lines or (np.ones(channels, np.float32), np.zeros(channels, np.float32))
    values = np.zeros((channels, 256), np.float32)
    of_codes = np.zeros(channels, bool)
    inputs, signs = [], []
    nodes: list[Node] = []
    begin = 0
    for part, function, size in zip(*parts):
        inputs.append(part if function is None else function.source)
        place = slice(begin, begin + size)
        begin += size
        if function is None:
            signs.append(False)
            continue
        signs.append(read_quantization(function.nodes[0]).signed)
        values[place], of_codes[place] = np.broadcast_to(function.values, (size, 256)), True
        nodes += function.nodes
    if lines is not None:
        with np.errstate(all="ignore"):
            values = values * slopes[:, None] + shifts[:, None]
    tables = grid.quantize(values, limits)
    zero = grid.y.zero_point
    proved = None
    read = {sign for sign, function in zip(signs, parts[1]) if function is not None}
    if len(read) == 1:
        for low, high in limits:
            values = np.minimum(np.maximum(values, np.float32(low)), np.float32(high))
        exact = values / grid.scales[:, None].astype(np.float64) + (grid.zeros - zero)[:, None]
        x = Quantization(1.0, 0, read.pop())
        found = proved_lines(exact[of_codes], tables[of_codes], x, zero)
        if found is not None:
            proved = np.zeros((2, channels), np.float32)
            proved[:, of_codes] = found
    ends = grid.quantize(np.tile(np.array([-np.inf, np.inf], np.float32), (channels, 1)), limits).astype(np.int64)
    own = np.stack([ends[:, 0] - grid.zeros, ends[:, 1] - grid.zeros])
    numbers = np.stack([slopes, shifts, grid.scales, grid.zeros, *own]).astype(np.float32)
    return ChannelQuantize(
        inputs=tuple(inputs), output=node.output, nodes=tuple(dict.fromkeys((*nodes, *covered, node))), axis=axis,
        sizes=tuple(parts[2]), of_floats=tuple(function is None for function in parts[1]), signs=tuple(signs),
        tables=tables, lines=proved, numbers=numbers, y=grid.y,
    )  # fmt: skip
