"""The step-level IR: integer operations on 8-bit tensors, the same whoever quantized the model and in whichever form.

An operation reads and writes values of the graph IR: 8-bit codes inside a region, float32 at its borders. Shapes are
logical (ONNX's axis order); where the elements really lie is decided when a plan is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ...ir import Array, Node, Value
from ...kernels.floats import FloatOp
from ...kernels.quantization import Quantization

Clamp = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Operation:
    """What every operation has; `nodes` are the graph's nodes it does the work of."""

    inputs: tuple[Value, ...]
    output: Value
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Quantize(Operation):
    """QuantizeLinear of float32, per tensor."""

    y: Quantization


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dequantize(Operation):
    """DequantizeLinear to float32, per tensor."""

    x: Quantization


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Residual:
    """An addition fused behind a product: its result is first requantized to `inner`, then `other` is added."""

    inner: Quantization
    other: Quantization


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LinearOperation(Operation):
    """A product with constant weights, then y = clamp(requantize(Σ + bias)), then an optional table.

    `scale` is float32 per output channel, x scale · weight scale; with `y` None the result is float32: Σ · scale,
    between `float_limits`. bias: int32 per channel in units of `scale`. With a residual, input 1 is the tensor added.
    """

    x: Quantization
    weights: Array
    weight_zero_point: int | Array = 0
    scale: Array
    bias: Array | None = None
    y: Quantization | None
    clamp: Clamp | None = None
    float_limits: tuple[float, float] = (-np.inf, np.inf)
    residual: Residual | None = None
    table: Array | None = None

    @property
    def requantization(self) -> npt.NDArray[np.float32]:
        """float32 per channel: x scale · weight scale / the scale that the sums are requantized to."""
        target = self.y if self.residual is None else self.residual.inner
        assert target is not None
        made: npt.NDArray[np.float32] = np.asarray(self.scale / np.float32(target.scale), np.float32)
        return made


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Conv(LinearOperation):
    """Convolution, weights [O, C / groups, kernel …] with one or two spatial axes; pads as ONNX orders them."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1
    auto_pad: str = "NOTSET"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MatMul(LinearOperation):
    """x [..., K] · weights [K, N]."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DynamicMatMul(Operation):
    """float32 x [..., K], quantized by DynamicQuantizeLinear, · weights [K, N]: Σ · (x scale · scale) + bias, float32.

    `scale` and `bias` are float32 per output channel.
    """

    weights: Array
    weight_zero_point: int | Array = 0
    scale: Array
    bias: Array | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DynamicConv(Operation):
    """Convolution of float32 images quantized by DynamicQuantizeLinear; as DynamicMatMul, then between `limits`."""

    weights: Array
    weight_zero_point: int | Array = 0
    scale: Array
    bias: Array | None = None
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1
    auto_pad: str = "NOTSET"
    limits: tuple[float, float] = (-np.inf, np.inf)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ActivationMatMul(Operation):
    """a [..., M, K] · b [..., K, N] of codes, batches as numpy broadcasts them; float32 if `y` is None."""

    a: Quantization
    b: Quantization
    y: Quantization | None


PRODUCTS = (LinearOperation, DynamicMatMul, DynamicConv, ActivationMatMul)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Table(Operation):
    """Any function of one code: 256 bytes by the code's bits read as unsigned."""

    table: Array


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ChannelTable(Operation):
    """A table for each index of one axis of the input, then `moves`; None moves codes as they are.

    tables: one-byte [channels, 256], or [1, 256] for all alike; `axis` counts from the end. Each of `moves` reads the
    one before in place of its first input; what else they read follows the input.
    """

    tables: Array | None
    axis: int
    y: Quantization
    moves: tuple[Transpose | Reshape, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatTable(Operation):
    """Any float32 function of one code: 256 values by the code's bits read as unsigned."""

    table: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatBinary(Operation):
    """input ∘ other in float32, `other` the second input or a constant; `kind` tells which comes first."""

    kind: FloatOp
    constant: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LayerNorm(Operation):
    """LayerNormalization over the last axis of float32, then QuantizeLinear unless `y` is None."""

    scale: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32] | None
    epsilon: float
    y: Quantization | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Softmax(Operation):
    """Softmax over the last axis, from codes to codes."""

    x: Quantization
    y: Quantization


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatMatMul(Operation):
    """a [..., M, K] · b [..., K, N] of float32 activations, batches as numpy broadcasts them."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatSoftmax(Operation):
    """Softmax over the last axis of float32."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Gelu(Operation):
    """x · (plain + bent · erf(inner · x)) of float32."""

    inner: float
    plain: float
    bent: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatClamp(Operation):
    """min(max(slope · x + shift, low), high) of float32: Relu, Clip, HardSigmoid."""

    slope: float = 1.0
    shift: float = 0.0
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatPool(Operation):
    """MaxPool or (`mean`) AveragePool of float32; with `kernel` empty over all spatial axes."""

    mean: bool
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    count_include_pad: bool = False
    ceil_mode: bool = False
    auto_pad: str = "NOTSET"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Binary(Operation):
    """y = table(quantize(dequantize(a) ∘ dequantize(b))), every operation in float32."""

    kind: Literal["add", "subtract", "multiply"]
    a: Quantization
    b: Quantization
    y: Quantization
    table: Array | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MaxPool(Operation):
    """MaxPool of codes; kernel, strides, dilations and pads as ONNX orders them, one or two spatial axes."""

    signed: bool
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil_mode: bool = False
    auto_pad: str = "NOTSET"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lrn(Operation):
    """LocalResponseNormalization over axis 1 from codes to codes; then `pool`, which commutes with QuantizeLinear."""

    x: Quantization
    y: Quantization
    size: int
    alpha: float
    beta: float
    bias: float
    pool: MaxPool | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AveragePool(Operation):
    """QLinearAveragePool; with `kernel` empty the mean over all spatial axes (QLinearGlobalAveragePool)."""

    x: Quantization
    y: Quantization
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    count_include_pad: bool = False
    ceil_mode: bool = False
    auto_pad: str = "NOTSET"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Concat(Operation):
    """Concatenation; `tables` requantize each input (None where it has the output's scale already)."""

    axis: int
    tables: tuple[Array | None, ...]
    floats: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Resize(Operation):
    """Elements repeated along each axis, `factors` times or up to whole multiples `sizes`; then an optional table."""

    factors: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    table: Array | None = None
    signed: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Transpose(Operation):
    """Axes in a new order; `permutation` None reverses them."""

    permutation: tuple[int, ...] | None = None
    floats: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Reshape(Operation):
    """Another shape over the same elements: Reshape, Flatten, Squeeze, Unsqueeze.

    `kind` says how `target` is read: Reshape's shape (0 copies, −1 is inferred), Flatten's axis, or the axes. A Value
    is computed from the shapes of the inputs after the first, which are read for nothing else.
    """

    kind: Literal["reshape", "flatten", "squeeze", "unsqueeze"]
    target: tuple[int, ...] | Value
    allow_zero: bool = False
    floats: bool = False


_ON_FLOATS = (FloatBinary, FloatClamp, FloatMatMul, FloatPool, FloatSoftmax, Gelu)
_DYNAMIC = (DynamicMatMul, DynamicConv)


def is_float(operation: Operation) -> bool:
    """Whether the result is float32 and not codes."""
    if isinstance(operation, (LinearOperation, LayerNorm, ActivationMatMul)):
        return operation.y is None
    if isinstance(operation, (Transpose, Reshape, Concat)):
        return operation.floats
    return isinstance(operation, (Dequantize, FloatTable, *_DYNAMIC, *_ON_FLOATS))


def is_glue(operation: Operation) -> bool:
    """Float arithmetic that is worth a kernel only between others."""
    return is_float(operation) and isinstance(
        operation, (FloatTable, LayerNorm, Transpose, Reshape, Concat, *_ON_FLOATS)
    )


def reads_float(operation: Operation) -> bool:
    """Whether the inputs are float32 and not codes."""
    if isinstance(operation, (Transpose, Reshape, Concat)):
        return operation.floats
    return isinstance(operation, (Quantize, LayerNorm, *_DYNAMIC, *_ON_FLOATS))


def data_inputs(operation: Operation) -> tuple[Value, ...]:
    """The inputs whose elements are read; of others the shape alone is."""
    return operation.inputs[:1] if isinstance(operation, (Reshape, ChannelTable)) else operation.inputs


@dataclass(slots=True)
class Coverage:
    """What the lowering found: for each value it can compute, how; for each node it must leave, why."""

    providers: dict[Value, Operation] = field(default_factory=dict)
    refusals: dict[Node, str] = field(default_factory=dict)
