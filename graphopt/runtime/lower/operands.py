"""Reading operands: constants behind quantization and casts, scales and zero points, stored weights, attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...errors import Declined
from ...ir import Array, DType, Node, TensorType, Value
from ...kernels.tensors.quantization import Quantization
from ...ops import attr
from .traits import Operation

UNQUANTIZED = "an input that is not quantized"
"""The refusal of products of floats."""
_BYTES = (DType.UINT8, DType.INT8)


@dataclass(frozen=True, slots=True)
class Weights:
    """Constant weights as stored: 8-bit codes, and scale and zero point along `axis` (None: one for all)."""

    codes: Array
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int32]
    axis: int | None

    def transpose(self, permutation: tuple[int, ...] | None = None) -> Weights:
        """The weights with their axes in this order, reversed by default."""
        order = permutation or tuple(reversed(range(self.codes.ndim)))
        axis = None if self.axis is None else order.index(self.axis)
        return Weights(self.codes.transpose(order), self.scale, self.zero_point, axis)

    @property
    def one_zero_point(self) -> int | npt.NDArray[np.int32]:
        """The zero points, as the number 0 where all are 0."""
        return self.zero_point if self.zero_point.any() else 0


def constant_array(value: Value | None) -> Array | None:
    """The array of a value that operators of `_EVALUATED` compute from constants only; None for other values."""
    if value is None:
        return None
    if value.constant is not None:
        return value.constant.array()
    node = value.producer
    if node is None or value.index:
        return None
    evaluate = _EVALUATED.get(node.op)
    if evaluate is None:
        return None
    operands = [constant_array(v) for v in node.inputs]
    if any(o is None and v is not None for o, v in zip(operands, node.inputs)):
        return None
    return evaluate(node, operands)


def is_constant(value: Value | None) -> bool:
    """Whether `constant_array` could compute the value from constants; reads no array."""
    if value is None:
        return False
    if value.constant is not None:
        return True
    node = value.producer
    if node is None or value.index or node.op not in _EVALUATED:
        return False
    return all(v is None or is_constant(v) for v in node.inputs)


def _along(array: Array, parameter: Array, axis: int) -> Array:
    """A parameter per tensor or per axis, shaped to broadcast against `array`."""
    if parameter.size == 1:
        return parameter.reshape(())
    shape = [1] * array.ndim
    shape[axis % array.ndim] = parameter.size
    return parameter.reshape(shape)


def _dequantized(node: Node, operands: list[Array | None]) -> Array | None:
    codes, scale = operands[0], operands[1]
    if codes is None or scale is None or node.attrs.get("block_size") or scale.ndim > 1:
        return None
    axis = int(attr(node, "axis", 1))
    zero = operands[2] if len(operands) > 2 and operands[2] is not None else np.zeros((), np.int8)
    exact = np.float32 if codes.dtype.itemsize < 4 and zero.dtype.itemsize < 4 else np.int32
    centred = codes.astype(exact) - _along(codes, zero.astype(exact), axis)
    return np.multiply(centred.astype(np.float32, copy=False), _along(codes, scale.astype(np.float32), axis))


def _quantized(node: Node, operands: list[Array | None]) -> Array | None:
    x, scale = operands[0], operands[1]
    zero = operands[2] if len(operands) > 2 else None
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    if x is None or scale is None or node.attrs.get("block_size") or scale.ndim > 1 or dtype not in (np.uint8, np.int8):
        return None
    axis = int(attr(node, "axis", 1))
    zeros = np.zeros((), np.float32) if zero is None else zero.astype(np.float32)
    info = np.iinfo(dtype)
    steps = np.rint(x.astype(np.float32, copy=False) / _along(x, scale.astype(np.float32), axis))
    steps = np.asarray(steps + _along(x, zeros, axis))  # exact: sums that float32 rounds are clipped
    return np.asarray(np.clip(steps, info.min, info.max, out=steps).astype(dtype))


def _cast(node: Node, operands: list[Array | None]) -> Array | None:
    target = DType(int(node.attrs["to"]))
    x = operands[0]
    if x is None or not (target in _BYTES or target in (DType.FLOAT, DType.INT32, DType.INT64)):
        return None
    if x.dtype.kind == "f" and target in _BYTES:
        return None
    return x.astype(target.numpy)


def _reshaped(node: Node, operands: list[Array | None]) -> Array | None:
    x, shape = operands[0], operands[1]
    if x is None or shape is None or attr(node, "allowzero", 0):
        return None
    return x.reshape([x.shape[i] if d == 0 else int(d) for i, d in enumerate(shape.tolist())])


def _transposed(node: Node, operands: list[Array | None]) -> Array | None:
    x = operands[0]
    return None if x is None else x.transpose(node.attrs.get("perm"))


_EVALUATED: dict[str, Callable[[Node, list[Array | None]], Array | None]] = {
    "Identity": lambda node, operands: operands[0],
    "Cast": _cast,
    "Transpose": _transposed,
    "Reshape": _reshaped,
    "DequantizeLinear": _dequantized,
    "com.microsoft::DequantizeLinear": _dequantized,
    "QuantizeLinear": _quantized,
    "com.microsoft::QuantizeLinear": _quantized,
}


def quantization_of(scale: Value | None, zero_point: Value | None, dtype: DType | None = None) -> Quantization:
    """The constant per-tensor scale and zero point of an activation. Declined where these are anything else."""
    factor, zero = constant_array(scale), constant_array(zero_point)
    if factor is None or (zero_point is not None and zero is None):
        raise Declined("a scale or zero point that is not constant")
    if factor.size != 1 or (zero is not None and zero.size != 1):
        raise Declined("an activation quantized per axis")
    if factor.dtype != np.float32:
        raise Declined(f"scales of {factor.dtype}")
    if zero is not None and zero.dtype not in (np.uint8, np.int8):
        raise Declined(f"an activation quantized to {zero.dtype}")
    if zero is None and dtype not in (None, *_BYTES):
        raise Declined(f"an activation quantized to {dtype}")
    signed = dtype is DType.INT8 if zero is None else zero.dtype == np.int8
    try:
        return Quantization(float(factor.reshape(())), 0 if zero is None else int(zero.reshape(())), signed)
    except ValueError as error:
        raise Declined(str(error)) from error


def read_quantization(node: Node) -> Quantization:
    """The quantization of the codes that a DequantizeLinear reads."""
    return quantization_of_codes(node.inputs[0], node.input(1), node.input(2))


def written_quantization(node: Node) -> Quantization:
    """The quantization of the codes that a QuantizeLinear writes."""
    return quantization_of(node.input(1), node.input(2), output_dtype(node))


def quantization_of_codes(codes: Value | None, scale: Value | None, zero_point: Value | None) -> Quantization:
    """`quantization_of` an operator's codes; without a zero point, the codes' own type gives the signedness."""
    type = None if codes is None else codes.type
    return quantization_of(scale, zero_point, type.dtype if isinstance(type, TensorType) else None)


def requantization_table(x: Quantization, y: Quantization) -> Array | None:
    """The table from x's 256 codes, by their bits, to y's codes; None where the two quantizations are equal."""
    return None if x == y else y.quantize(x.dequantize(x.codes()))


def quantized_weights(value: Value | None) -> Weights:
    """The stored weights before DequantizeLinear, transposed or not. Declined where they are not constant codes."""
    node = None if value is None else value.producer
    transposed: tuple[int, ...] | None = None
    if node is not None and node.op == "Transpose" and node.inputs[0] is not None:
        inner = node.inputs[0].producer
        if inner is not None and is_dequantize(inner):
            transposed = tuple(node.attrs.get("perm") or ())
            node = inner
    if node is None or not is_dequantize(node):
        raise Declined("weights that are not quantized constants")
    weights = stored_weights(node.inputs[0], node.input(1), node.input(2), int(attr(node, "axis", 1)))
    return weights if transposed is None else weights.transpose(transposed or None)


def stored_weights(codes: Value | None, scale: Value | None, zero_point: Value | None, axis: int) -> Weights:
    """Weights of constant codes, scale and zero point. Declined where one is not constant or has another type."""
    array, factor, zero = constant_array(codes), constant_array(scale), constant_array(zero_point)
    if array is None or factor is None or (zero_point is not None and zero is None):
        raise Declined("weights that are not constant")
    if array.dtype not in (np.uint8, np.int8):
        raise Declined(f"weights of {array.dtype}")
    if factor.ndim > 1 or factor.dtype != np.float32:
        raise Declined("weights quantized in blocks or with scales that are not float32")
    if not np.all(np.isfinite(factor)) or np.any(factor <= 0):
        raise Declined("weight scales that are not positive and finite")
    zeros = np.zeros(1, np.int32) if zero is None else zero.astype(np.int32).reshape(-1)
    per_axis = factor.size > 1 or zeros.size > 1
    return Weights(array, factor.reshape(-1), zeros, axis % array.ndim if per_axis else None)


def dequantized_source(value: Value | None) -> tuple[Value, Quantization]:
    """The codes that DequantizeLinear turns into `value`, and their quantization. Declined for other values."""
    node = None if value is None else value.producer
    if node is None or not is_dequantize(node) or is_constant(node.inputs[0]):
        raise Declined(UNQUANTIZED)
    assert node.inputs[0] is not None
    return node.inputs[0], read_quantization(node)


def integer_bias(value: Value | None, scale: npt.NDArray[np.float32], channels: int) -> Array | None:
    """A constant bias as int32[channels] in units of `scale`.

    A bias dequantized with exactly that scale keeps its codes. Any other bias is rounded to the nearest unit, an error
    of at most half a unit of the accumulator. Declined where the bias is not constant or exceeds 2³⁰ units.
    """
    if value is None:
        return None
    node = value.producer
    if node is not None and is_dequantize(node):
        codes, own, zero = (constant_array(node.input(slot)) for slot in range(3))
        exact = codes is not None and own is not None and codes.dtype == np.int32 and codes.size == channels
        if exact and (zero is None or not zero.any()) and _are_close(own.reshape(-1), scale):  # type: ignore[union-attr]
            return codes.reshape(-1)  # type: ignore[union-attr]
    array = constant_array(value)
    if array is None or array.size not in (1, channels):
        raise Declined("a bias that is not a constant of one value a channel")
    units = np.rint(array.reshape(-1).astype(np.float64) / scale)
    if not np.all(np.isfinite(units)) or np.any(np.abs(units) > 2**30):
        raise Declined("a bias too large for the accumulator")
    return np.broadcast_to(units, (channels,)).astype(np.int32)


def _are_close(scale: Array, wanted: Array) -> bool:
    """`np.allclose` of finite numbers with rtol=1e-5, in a sixth of its time: each convolution asks for it."""
    with np.errstate(invalid="ignore"):
        return bool((np.abs(scale - wanted) <= 1e-5 * np.abs(wanted)).all())


def declared_shape(value: Value) -> tuple[int | str | None, ...]:
    """The declared shape of a tensor. Declined where its rank is not known."""
    if not isinstance(value.type, TensorType) or value.type.shape is None:
        raise Declined("a value of unknown rank")
    return value.type.shape


def is_float32(value: Value | None) -> bool:
    """Whether the value is declared to be a float32 tensor."""
    return value is not None and isinstance(value.type, TensorType) and value.type.dtype is DType.FLOAT


def are_floats(node: Node, known: Mapping[Value, Operation]) -> bool:
    """Whether all operands and the result are float32, and kernels compute one of the operands."""
    operands = [value for value in node.inputs if value is not None]
    if not all(is_float32(value) for value in (*operands, node.output)):
        return False
    return any(value in known and known[value].writes_float for value in operands)


def is_dequantize(node: Node) -> bool:
    """DequantizeLinear, of ONNX or of com.microsoft."""
    return node.op_type == "DequantizeLinear" and node.domain in ("", "com.microsoft")


def is_quantize(node: Node) -> bool:
    """QuantizeLinear, of ONNX or of com.microsoft."""
    return node.op_type == "QuantizeLinear" and node.domain in ("", "com.microsoft")


def output_dtype(node: Node) -> DType | None:
    """QuantizeLinear's attribute output_dtype, its result's type where it has no zero point; None if absent."""
    named = node.attrs.get("output_dtype", 0)
    return DType(int(named)) if named else None


def ints(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute that is a list of integers; `default` where it is absent or empty."""
    value = attr(node, name)
    return default if not value else tuple(int(v) for v in value)
