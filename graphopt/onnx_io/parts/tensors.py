"""Tensors of a file as constants, read lazily; each external file is mapped once, and its data never copied."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx

from ...errors import ModelError
from ...ir import Array, Constant, DType
from .apart import put_back

_LISTED: dict[int, tuple[str, Any, Any]] = {
    DType.FLOAT: ("float_data", np.float32, None), DType.DOUBLE: ("double_data", np.float64, None),
    DType.INT32: ("int32_data", np.int32, None), DType.INT64: ("int64_data", np.int64, None),
    DType.INT8: ("int32_data", np.int32, np.int8), DType.UINT8: ("int32_data", np.int32, np.uint8),
}  # fmt: skip
"""Element types with the list of a proto that holds their elements, its type, and that of 8-bit codes in it. Through
onnx or onnx-ir a scale takes 20 µs: too long for the hundreds of a quantized model."""

_FEW = 64
"""Elements below which a list is copied to a Python list: numpy looks at protobuf's own for 10 µs. Measured."""


class DataFiles:
    """The external data files of one model folder.

    A location must stay inside the folder: relative, without "..", and its real path below the real path of the folder,
    or of the model file's real folder (model caches link both into a store).
    """

    def __init__(self, folder: str = "", path: str = "") -> None:
        self.folder, self._path = folder, path
        self._files: dict[str, DataFile] = {}

    @cached_property
    def _roots(self) -> list[str]:
        """The real folders; resolved for the first file, as most models have none."""
        own = [os.path.dirname(os.path.realpath(self._path))] if self._path else []
        return [os.path.realpath(self.folder or "."), *own]

    def open(self, location: str, place: str) -> DataFile:
        """The file at a location; ModelError if it may not or cannot be read."""
        known = self._files.get(location)
        if known is None:
            known = self._files[location] = DataFile(self._resolve(location, place))
        return known

    def _resolve(self, location: str, place: str) -> str:
        normal = os.path.normpath(location.replace("\\", "/"))
        if not location or os.path.isabs(normal) or normal.split(os.sep)[0] in ("..", "."):
            raise ModelError(f"{place}: external data path {location!r} is not inside the model's folder")
        path = os.path.join(self.folder, normal)
        real = os.path.realpath(path)
        if not any(os.path.commonpath((real, root)) == root for root in self._roots):
            raise ModelError(f"{place}: external data path {location!r} leads out of the model's folder")
        if not os.path.isfile(real):
            raise ModelError(f"{place}: external data file {path!r} does not exist")
        return path


@dataclass(frozen=True, slots=True)
class ProtoSource:
    """The source of a constant in the model file: its tensor proto, not to be edited.

    lent: the elements, where the proto only describes them (`parts.apart`).
    """

    raw: onnx.TensorProto
    lent: Array | None = None

    @property
    def name(self) -> str:
        """The tensor's name."""
        return str(self.raw.name)

    def array(self) -> Array:
        """The elements. ValueError or AssertionError where the data does not fit the sizes."""
        raw = self.raw
        name, stored, code = _LISTED.get(raw.data_type, ("", None, None))
        listed = getattr(raw, name, ())
        if not name or raw.HasField("raw_data") or (code is not None and not listed):
            return np.asarray(_ir_tensor(raw).numpy())
        array = np.array(listed[:] if len(listed) < _FEW else listed, stored).reshape(tuple(raw.dims))
        return array if code is None else array.astype(np.uint8).view(code)

    def data(self) -> bytes:
        """The elements as `raw_data` stores them."""
        return self.raw.raw_data if self.raw.HasField("raw_data") else bytes(_ir_tensor(self.raw).tobytes())


def _ir_tensor(proto: onnx.TensorProto) -> Any:
    """The tensor in onnx-ir, which reads all forms of all types; imported only if needed, as it takes half a second."""
    from onnx_ir.serde import TensorProtoTensor

    return TensorProtoTensor(proto)


@dataclass(frozen=True, slots=True)
class ExternalSource:
    """The source of a constant with external data: its proto, the mapped file, and the offset of the data."""

    raw: onnx.TensorProto
    file: DataFile
    offset: int

    @property
    def name(self) -> str:
        """The tensor's name."""
        return str(self.raw.name)


@dataclass(frozen=True, slots=True, eq=False)
class PackedSource:
    """The source of a new constant of fewer than 8 bits: its packed bytes, uint8, kept on disk."""

    packed: Array


def packed_constant(packed: Array, dtype: DType, shape: tuple[int, ...]) -> Constant:
    """A constant of 4-bit elements, packed on disk, two a byte, and unpacked at each read."""

    def unpacked() -> Array:
        tensor = onnx.TensorProto(dims=shape, data_type=int(dtype), raw_data=packed.tobytes())
        return np.asarray(_ir_tensor(tensor).numpy())

    return Constant(dtype, shape, unpacked, PackedSource(packed))


class DataFile:
    """One mapped file."""

    __slots__ = ("_map", "path", "size")

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = os.path.getsize(path)
        self._map: Array | None = None

    def bytes(self, offset: int, length: int) -> Array:
        """A read-only uint8 view of a range of the file."""
        if length == 0:
            return np.empty(0, np.uint8)
        if self._map is None:
            try:
                self._map = np.asarray(np.memmap(self.path, np.uint8, "r"))
            except (OSError, ValueError) as error:
                raise ModelError(f"external data file {self.path!r} cannot be read: {error}") from error
        if offset + length > self._map.size:
            raise ModelError(f"external data file {self.path!r} ends before byte {offset + length}")
        return self._map[offset : offset + length]


def read_constant(proto: onnx.TensorProto, files: DataFiles, place: str, lent: Array | None = None) -> Constant:
    """The unread constant of a `TensorProto`; ModelError where the proto contradicts itself.

    lent: its elements, where the proto only describes them.
    """
    if lent is not None:
        return Constant(DType(proto.data_type), lent.shape, lambda: lent, ProtoSource(proto, lent))
    try:
        dtype = DType(proto.data_type)
    except ValueError:
        raise ModelError(f"{place}: element type {proto.data_type} is none that ONNX defines") from None
    shape = tuple(proto.dims)
    if dtype is DType.UNDEFINED:
        raise ModelError(f"{place}: the tensor has no element type")
    if shape and min(shape) < 0:
        raise ModelError(f"{place}: the tensor has a negative size, {list(shape)}")
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        return _external(proto, dtype, shape, files, place)
    source = ProtoSource(proto)
    return Constant(dtype, shape, partial(_inline, source, dtype, shape, place), source)


def _inline(source: ProtoSource, dtype: DType, shape: tuple[int, ...], place: str) -> Array:
    proto = source.raw
    try:
        if dtype is DType.STRING:
            return _strings(proto, shape)
        if dtype.bits >= 8 and proto.HasField("raw_data"):
            return np.frombuffer(proto.raw_data, dtype.numpy).reshape(shape)
        return source.array().reshape(shape)
    except (ValueError, AssertionError) as error:
        raise ModelError(f"{place}: the tensor's data does not fit {dtype.short}{list(shape)}: {error}") from error


def _strings(proto: onnx.TensorProto, shape: tuple[int, ...]) -> Array:
    values: list[str | bytes] = list(proto.string_data)
    with suppress(UnicodeDecodeError):  # ONNX demands UTF-8; other strings stay bytes
        values = [v.decode() for v in proto.string_data]
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _external(
    proto: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], files: DataFiles, place: str
) -> Constant:  # fmt: skip
    if dtype is DType.STRING:
        raise ModelError(f"{place}: strings cannot be external data")
    entries = {entry.key: entry.value for entry in proto.external_data}
    try:
        offset, length = int(entries.get("offset") or 0), int(entries["length"]) if entries.get("length") else None
    except ValueError:
        raise ModelError(f"{place}: offset and length of external data are not integers") from None
    expected = (int(np.prod(shape, dtype=object)) * dtype.bits + 7) // 8
    if offset < 0 or (length is not None and length != expected):
        raise ModelError(
            f"{place}: external data has offset {offset} and length {length}, "
            f"{dtype.short}{list(shape)} takes {expected} bytes"
        )
    file = files.open(entries.get("location", ""), place)
    if offset + expected > file.size:
        raise ModelError(
            f"{place}: external data file {file.path!r} has {file.size} bytes, "
            f"the tensor needs those up to {offset + expected}"
        )
    source = ExternalSource(proto, file, offset)
    return Constant(dtype, shape, partial(_mapped, file, offset, expected, dtype, shape), source)


def _mapped(file: DataFile, offset: int, length: int, dtype: DType, shape: tuple[int, ...]) -> Array:
    data = file.bytes(offset, length)
    if dtype.bits >= 8:
        return data.view(dtype.numpy).reshape(shape)
    packed = onnx.TensorProto(dims=shape, data_type=int(dtype), raw_data=data.tobytes())
    return np.asarray(_ir_tensor(packed).numpy())


def read_sparse(proto: onnx.SparseTensorProto, files: DataFiles, place: str) -> Constant:
    """The constant of a `SparseTensorProto`, made dense when it is read."""
    values = read_constant(proto.values, files, place)
    indices = read_constant(proto.indices, files, place)
    shape = tuple(proto.dims)
    return Constant(values.dtype, shape, partial(_dense, values, indices, shape), proto)


def _dense(values: Constant, indices: Constant, shape: tuple[int, ...]) -> Array:
    array = np.zeros(shape, values.dtype.numpy)
    where = indices.array()
    if where.ndim == 1:
        array.reshape(-1)[where] = values.array()
    else:
        array[tuple(where.T)] = values.array()
    return array


def external_source(constant: Constant) -> ExternalSource | None:
    """The source of a constant with external data; None for other constants."""
    return constant.source if isinstance(constant.source, ExternalSource) else None


def write_tensor(proto: onnx.TensorProto, constant: Constant, name: str) -> None:
    """Fill an empty `TensorProto`: a lifted tensor from its own proto, a new one from its array."""
    source = constant.source
    if isinstance(source, (ExternalSource, ProtoSource)):
        proto.CopyFrom(source.raw)
        if isinstance(source, ProtoSource) and source.lent is not None:
            put_back(proto, source.lent)
    else:
        describe(proto, constant)
        if constant.dtype is DType.STRING:
            proto.string_data.extend(v if isinstance(v, bytes) else str(v).encode() for v in constant.array().flat)
        else:
            proto.raw_data = packed_bytes(constant)
    proto.name = name


def describe(proto: onnx.TensorProto, constant: Constant) -> None:
    """Set element type and sizes."""
    proto.data_type = int(constant.dtype)
    proto.dims.extend(constant.shape)


def packed_bytes(constant: Constant) -> bytes:
    """The elements as the file stores them: little endian, types below 8 bits packed. Not for strings."""
    source = constant.source
    if isinstance(source, PackedSource):
        return source.packed.tobytes()
    if isinstance(source, ProtoSource) and source.lent is None:
        return source.data()
    array = np.ascontiguousarray(constant.array())
    if constant.dtype.bits >= 8:
        return array.tobytes()
    import onnx_ir

    return onnx_ir.Tensor(array, onnx_ir.DataType(int(constant.dtype)), shape=onnx_ir.Shape(constant.shape)).tobytes()


def describe_external(proto: onnx.TensorProto, constant: Constant, name: str) -> None:
    """Fill an empty `TensorProto` except for its data, which goes to a file."""
    source = constant.source
    if isinstance(source, ExternalSource):
        proto.CopyFrom(source.raw)
    else:
        describe(proto, constant)
        if isinstance(source, ProtoSource):
            if source.raw.doc_string:
                proto.doc_string = source.raw.doc_string
            proto.metadata_props.extend(source.raw.metadata_props)
    proto.name, proto.data_location = name, onnx.TensorProto.EXTERNAL


def stored_bytes(constant: Constant) -> memoryview:
    """The elements' bytes as in the file; a view, not a copy, if memory or a mapped file holds the same bytes."""
    source = constant.source
    if isinstance(source, ExternalSource):
        return source.file.bytes(source.offset, constant.nbytes).data
    if isinstance(source, PackedSource):
        return source.packed.data
    if (isinstance(source, ProtoSource) and source.lent is None) or constant.dtype.bits < 8:
        return memoryview(packed_bytes(constant))
    array = np.ascontiguousarray(constant.array())
    return array.reshape(-1).view(np.uint8).data
