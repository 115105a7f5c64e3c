"""The region IR: operations on 8-bit codes and on float32, common to all forms of quantized models.

An operation reads and writes values of the graph IR: 8-bit codes inside a region, float32 at its borders. Shapes are
logical (ONNX's order of axes); the order in memory is chosen when a region is compiled. A new operation is a class here
and a row in `compile/legality.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ...ir import Array, Node, Value
from ...kernels.elementwise.floats import FloatOp
from ...kernels.elementwise.proved_lines import ChannelTables
from ...kernels.tensors.quantization import Quantization
from .traits import Element, FloatOperation, Operation, Rearrangement, Traits

Clamp = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Quantize(Operation):
    """QuantizeLinear of float32, per tensor."""

    traits: ClassVar[Traits] = Traits(reads=Element.FLOAT)

    y: Quantization


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dequantize(Operation):
    """DequantizeLinear to float32, per tensor."""

    traits: ClassVar[Traits] = Traits(writes=Element.FLOAT)

    x: Quantization


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Residual:
    """An addition fused behind a product: the product is first requantized to `inner`, then `other` is added."""

    inner: Quantization
    other: Quantization


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LinearOperation(Operation):
    """A product with constant weights, then y = clamp(requantize(Σ + bias)), then an optional table.

    `scale` is float32 per output channel, x scale · weight scale; with `y` None the result is float32: Σ · scale,
    between `float_limits`. bias: int32 per channel in units of `scale`. With a residual, input 1 is the tensor added.
    """

    traits: ClassVar[Traits] = Traits(writes=Element.BY_Y, is_product=True)

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
        """float32 per channel: x scale · weight scale / scale of the requantized sums."""
        target = self.y if self.residual is None else self.residual.inner
        assert target is not None
        return np.asarray(self.scale / np.float32(target.scale), np.float32)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Conv(LinearOperation):
    """Convolution, weights [O, C / groups, kernel …] with one or two spatial axes; pads as ONNX orders them."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1
    auto_pad: str = "NOTSET"

    @property
    def is_depthwise(self) -> bool:
        """One input channel for each output channel."""
        return self.groups > 1 and self.weights.shape[1] == 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ConvTranspose(LinearOperation):
    """Transposed convolution of an image: one of stride 1 gives `strides` pixels as channels, interleaved and cropped.

    weights: [strides · O, C, kernel …] and `pads`: of the inner convolution. `begin` leading rows and columns are
    cropped; the result has `more` rows and columns than the input's times `strides`.
    """

    strides: tuple[int, int]
    pads: tuple[int, int]
    begin: tuple[int, int]
    more: tuple[int, int]

    @property
    def channels(self) -> int:
        """Channels of the result."""
        return len(self.weights) // (self.strides[0] * self.strides[1])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MatMul(LinearOperation):
    """x [..., K] · weights [K, N]."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DynamicProduct(Operation):
    """float32 x, quantized by DynamicQuantizeLinear, times weights: Σ · (x scale · scale) + bias in float32.

    `scale` and `bias` are float32 per output channel.
    """

    traits: ClassVar[Traits] = Traits(reads=Element.FLOAT, writes=Element.FLOAT, is_product=True)

    weights: Array
    weight_zero_point: int | Array = 0
    scale: Array
    bias: Array | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DynamicMatMul(DynamicProduct):
    """x [..., K] · weights [K, N]."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DynamicConv(DynamicProduct):
    """Convolution, weights and attributes as those of Conv; the result is kept between `limits`."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1
    auto_pad: str = "NOTSET"
    limits: tuple[float, float] = (-np.inf, np.inf)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ActivationMatMul(Operation):
    """a [..., M, K] · b [..., K, N] of codes, batches as numpy broadcasts them; float32 if `y` is None."""

    traits: ClassVar[Traits] = Traits(writes=Element.BY_Y, is_product=True)

    a: Quantization
    b: Quantization
    y: Quantization | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Table(Operation):
    """Any function from codes to codes: 256 bytes, indexed by a code's bits as unsigned."""

    table: Array


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ChannelTable(Operation):
    """A table for each index of one axis of the input, then `moves`; None moves codes as they are.

    A single one of `tables` is for all channels; `axis` counts from the end. Each of `moves` reads the result before it
    as first input; their other inputs follow the operation's first. `x`: the input's quantization, of several tables.
    """

    traits: ClassVar[Traits] = Traits(reads_first=True)

    tables: ChannelTables | None
    axis: int
    y: Quantization
    x: Quantization | None = None
    moves: tuple[Transpose | Reshape, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ChannelQuantize(Operation):
    """Concat of tensors along the channel `axis`, a line for each channel, then QuantizeLinear with a scale for each.

    `axis` counts from the end. Input i has `sizes[i]` channels, of float32 (`of_floats`) or of codes (`signs`: signed).
    A code of channel c becomes tables[c, code], equal to `lines` unless these are None; a float32 becomes
    clip(round((slope · x + shift) / scale), low, high) + zero point by the rows of `numbers`: slope, shift, scale, zero
    point, low, high, each float32 [channels]. `y`: the result's type, and its zero point if all channels share one.
    """

    axis: int
    sizes: tuple[int, ...]
    of_floats: tuple[bool, ...]
    signs: tuple[bool, ...]
    tables: Array
    lines: npt.NDArray[np.float32] | None
    numbers: npt.NDArray[np.float32]
    y: Quantization

    def reads_float_from(self, value: Value) -> bool:
        """Whether input `value` is float32."""
        return any(floats for one, floats in zip(self.inputs, self.of_floats) if one is value)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatTable(Operation):
    """Any function from codes to float32: 256 values, indexed by a code's bits as unsigned."""

    traits: ClassVar[Traits] = Traits(writes=Element.FLOAT, is_glue=True)

    table: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatBinary(FloatOperation):
    """input ∘ other in float32, `other` the second input or a constant; `kind` names the function and operand order."""

    kind: FloatOp
    constant: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LayerNorm(Operation):
    """LayerNormalization over the last axis of float32, then QuantizeLinear unless `y` is None.

    With `centred` False, RMSNormalization: x / sqrt(mean of x² + epsilon) · scale.
    """

    traits: ClassVar[Traits] = Traits(reads=Element.FLOAT, writes=Element.BY_Y, is_glue=True)

    scale: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32] | None
    epsilon: float
    y: Quantization | None
    centred: bool = True


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Softmax(Operation):
    """Softmax over the last axis, from codes to codes."""

    x: Quantization
    y: Quantization


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatMatMul(FloatOperation):
    """a [..., M, K] · b [..., K, N] of float32 activations, batches as numpy broadcasts them."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatSoftmax(FloatOperation):
    """Softmax over the last axis of float32; `unknown` replaces NaN, the result of rows of only −inf."""

    unknown: float = np.nan


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Gelu(FloatOperation):
    """x · (plain + bent · erf(inner · x)) of float32."""

    inner: float
    plain: float
    bent: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatClamp(FloatOperation):
    """min(max(slope · x + shift, low), high) of float32: Relu, Clip, HardSigmoid. A shift of −0 keeps the sign of a
    zero, as onnxruntime does."""

    slope: float = 1.0
    shift: float = -0.0
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Binary(Operation):
    """y = table(quantize(dequantize(a) ∘ dequantize(b))), every operation in float32."""

    kind: Literal["add", "subtract", "multiply"]
    a: Quantization
    b: Quantization
    y: Quantization
    table: Array | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pool(Operation):
    """A window over one or two spatial axes, attributes as ONNX orders them; an empty `kernel` is the whole image."""

    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    ceil_mode: bool = False
    auto_pad: str = "NOTSET"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MaxPool(Pool):
    """MaxPool of codes, `signed` or not, then an optional table."""

    signed: bool
    table: Array | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AveragePool(Pool):
    """QLinearAveragePool, and QLinearGlobalAveragePool where `kernel` is empty."""

    x: Quantization
    y: Quantization
    count_include_pad: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatPool(Pool):
    """MaxPool or (`mean`) AveragePool of float32."""

    traits: ClassVar[Traits] = Traits(reads=Element.FLOAT, writes=Element.FLOAT, is_glue=True)

    mean: bool
    count_include_pad: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lrn(Operation):
    """LocalResponseNormalization over axis 1 from codes to codes; pools before and after commute with codes."""

    x: Quantization
    y: Quantization
    size: int
    alpha: float
    beta: float
    bias: float
    pool: MaxPool | None = None
    pool_before: MaxPool | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Concat(Rearrangement):
    """Concatenation; `tables` requantize each input (None where it has the output's quantization)."""

    axis: int
    tables: tuple[Array | None, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Resize(Rearrangement):
    """Nearest Resize of an image or a sequence, after an optional table; modes have ONNX's names.

    Sizes are the input's times `scales`, of the axes behind the channels, or `sizes`, of all axes: a Value is computed
    from the shapes of the inputs after the first.
    """

    traits: ClassVar[Traits] = Traits(reads=Element.BY_FLOATS, writes=Element.BY_FLOATS, is_glue=True, reads_first=True)

    coordinates: str
    nearest: str
    scales: tuple[float, ...] = ()
    sizes: tuple[int, ...] | Value = ()
    table: Array | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Transpose(Rearrangement):
    """Axes in a new order; `permutation` None reverses them."""

    permutation: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Reshape(Rearrangement):
    """Another shape over the same elements: Reshape, Flatten, Squeeze, Unsqueeze.

    `kind` gives the meaning of `target`: Reshape's shape (0 copies, −1 is inferred), Flatten's axis, or the axes of
    Squeeze and Unsqueeze. A Value is computed from the shapes of the inputs after the first, which serve nothing else.
    """

    traits: ClassVar[Traits] = Traits(reads=Element.BY_FLOATS, writes=Element.BY_FLOATS, is_glue=True, reads_first=True)

    kind: Literal["reshape", "flatten", "squeeze", "unsqueeze"]
    target: tuple[int, ...] | Value
    allow_zero: bool = False


@dataclass(slots=True)
class Coverage:
    """The result of lowering: the operation of each value that kernels can compute, and by node the refusals."""

    providers: dict[Value, Operation] = field(default_factory=dict)
    refusals: dict[Node, str] = field(default_factory=dict)
