"""Reading of models in all forms that callers may pass, as a `ModelProto`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ..errors import ModelError, one_line
from ..ir import Array
from .foreign import kind_of_data, kind_of_path
from .parts.apart import read_apart

if TYPE_CHECKING:
    import onnx_ir

ModelSource: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | onnx_ir.Model"
"""The forms in which a caller may pass a model."""


def read_proto(source: ModelSource) -> tuple[onnx.ModelProto, str]:
    """The proto (not copied if the source is one), and the path of a file, else ""."""
    if isinstance(source, onnx.ModelProto):
        return source, ""
    if is_onnx_ir(source):
        import onnx_ir

        return onnx_ir.serde.serialize_model(source), ""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return parse(bytes(source), "the model given as bytes"), ""
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        return parse(_read(path), repr(path), path), path
    raise ModelError(f"a model is a path, bytes, an onnx.ModelProto or an onnx_ir.Model, not {type(source).__name__}")


def read_lent(source: ModelSource) -> tuple[onnx.ModelProto, str, Mapping[str, Array]]:
    """The proto, the path of a file, else "", and the large weights that the proto only describes, by name."""
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        apart = read_apart(path)
        if apart is not None:
            return apart[0], path, apart[1]
    return *read_proto(source), {}


def is_onnx_ir(source: Any) -> TypeGuard[onnx_ir.Model]:
    """Whether a model is an `onnx_ir.Model`, without importing onnx_ir: a caller who has one has imported it."""
    known = sys.modules.get("onnx_ir")
    return known is not None and isinstance(source, known.Model)


def _read(path: str) -> bytes:
    if os.path.isdir(path):
        raise ModelError(f"{path!r} is a directory, expected an ONNX file")
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and (kind := kind_of_path(path)):
            raise ModelError(f"{path!r} is {kind}") from error
        raise ModelError(f"{path!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{path!r} is no path: {error}") from error


def parse(data: bytes, what: str, path: str = "") -> onnx.ModelProto:
    """Parse a serialized model; ModelError, naming the recognized format, if it is not ONNX."""
    if not data:
        raise ModelError(f"{what} is empty, expected an ONNX model")
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        if kind := kind_of_data(data, path):
            raise ModelError(f"{what} is {kind}") from error
        raise ModelError(f"{what} is not an ONNX model, or is cut off: {one_line(error)}") from error
    if not proto.HasField("graph") or not (proto.opset_import or proto.ir_version):
        kind = kind_of_data(data, path)
        raise ModelError(f"{what} is {kind}" if kind else f"{what} is not an ONNX model: it holds no graph")
    return proto
