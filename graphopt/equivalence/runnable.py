"""A model as something to run: its protobuf, where its external weights lie, and onnxruntime sessions on it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort

from ..errors import ModelError
from ..ir import Array
from ..ir import Model as IRModel
from ..machine.sessions import open_session, session_options
from ..ops import type_proto

_LARGE = 1 << 30
_WIDENED = {
    onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.FLOAT8E4M3FNUZ,
    onnx.TensorProto.FLOAT8E5M2, onnx.TensorProto.FLOAT8E5M2FNUZ, onnx.TensorProto.INT4, onnx.TensorProto.UINT4,
    onnx.TensorProto.FLOAT4E2M1,
}  # fmt: skip
"""Element types numpy lacks: outputs of these types are read through a Cast to float, which holds every value."""

QUANTIZED_OPS = frozenset((
    "QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention", "QGemm", "QEmbedLayerNormalization",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model. `dims` is None when the rank is unknown; `elem` is 0 for what is no tensor."""

    name: str
    elem: int
    dims: tuple[int | str | None, ...] | None
    type: onnx.TypeProto

    def __str__(self) -> str:
        shape = "*" if self.dims is None else ",".join("?" if d is None else str(d) for d in self.dims)
        kind = onnx.TensorProto.DataType.Name(self.elem).lower() if self.elem else str(self.type.WhichOneof("value"))
        return f"{self.name}: {kind}[{shape}]"


class Signature(Protocol):
    """Anything that tells a model's inputs."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The inputs that must be fed, in order."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a model that nobody has emitted yet."""

    inputs: tuple[Port, ...]


class Source:
    """A model that was opened to be run. The protobuf is never edited; edited copies are run from bytes.

    lent: weights, by name, that the protobuf describes but does not hold (`onnx_io.lend`).
    """

    def __init__(
        self, proto: onnx.ModelProto, path: Path | None, folder: Path | None, lent: Mapping[str, Array] | None = None
    ) -> None:
        self.proto, self.path, self.folder, self.lent = proto, path, folder, lent or {}
        self.scratch: tempfile.TemporaryDirectory[str] | None = None
        initializers = {t.name for t in proto.graph.initializer} | {
            t.values.name for t in proto.graph.sparse_initializer
        }
        self.inputs = tuple(_port(v) for v in proto.graph.input if v.name not in initializers)
        self.outputs = tuple(_port(v) for v in proto.graph.output)
        self.is_quantized = any(_is_quantized(node) for node in walk_nodes(proto))

    @property
    def external_bytes(self) -> int:
        """Bytes of weights that lie outside the file."""
        return sum(_external_length(t) for t in self.proto.graph.initializer if t.name not in self.lent)

    def whole(self) -> Source:
        """The same with all weights in the protobuf."""
        from ..onnx_io.lend import with_lent

        return Source(with_lent(self.proto, self.lent), self.path, self.folder) if self.lent else self

    def session(
        self,
        *,
        optimize: bool,
        threads: int | None = None,
        taps: Iterable[str] = (),
        edited: onnx.ModelProto | None = None,
    ) -> Session:
        """An onnxruntime CPU session with all optimizations or with none.

        `taps` are inner values to return beside the outputs; `edited` runs an edited copy in place of the model.
        Raises ModelError, one line, when onnxruntime refuses the model.
        """
        folder = str(self.folder) if self.folder is not None and self.external_bytes else ""
        exact = {"session.x64quantprecision": "1"}
        options = session_options(threads=threads, optimize=optimize, folder=folder, entries=exact)
        if self.external_bytes > _LARGE:
            # Packed copies and arenas of weights this large would not fit beside the mapped file.
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
            options.enable_mem_pattern = False
        addition = onnx.ModelProto()
        wanted = {p.name for p in self.outputs}
        addition.graph.output.extend(onnx.ValueInfoProto(name=name) for name in taps if name not in wanted)
        if addition.graph.output:  # results that leave are in no pattern: a second arena would be touched for nothing
            options.enable_mem_pattern = False
        casts = {}
        for port in self.outputs:
            if port.elem in _WIDENED:
                casts[port.name] = name = f"{port.name}::float"
                addition.graph.node.append(onnx.helper.make_node("Cast", [port.name], [name], to=1))
                addition.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
        lent = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self.lent.items()}
        try:
            if lent:
                options.add_external_initializers([*lent], [*lent.values()])
            if edited is None and self.path is not None and not addition.ByteSize():
                session = open_session(str(self.path), options)
            else:
                # Serialized messages merge when concatenated: outputs and nodes are appended without copying weights.
                blob = (self.proto if edited is None else edited).SerializeToString() + addition.SerializeToString()
                session = open_session(blob, options)
        except Exception as error:
            if lent:
                return self.whole().session(optimize=optimize, threads=threads, taps=taps, edited=edited)
            if optimize and self.is_quantized:  # the exact setting stumbles over zero points that weights share
                return self.session(optimize=False, threads=threads, taps=taps, edited=edited)
            raise ModelError(f"onnxruntime cannot load the model: {one_line(error)}") from error
        return Session(session, self.outputs, casts, lent)


class Session:
    """An onnxruntime session that takes and gives numpy arrays for every element type.

    lent: what must live as long as the session does.
    """

    def __init__(self, session: Any, outputs: Sequence[Port], casts: dict[str, str], lent: Any = None) -> None:
        self.session, self._lent = session, lent
        self.names = [p.name for p in outputs]
        self._casts = casts
        self._inputs = {i.name: i.type for i in (*session.get_inputs(), *session.get_overridable_initializers())}

    def float_taps(self, names: Iterable[str]) -> list[str]:
        """Those of the tapped values that are float tensors numpy can hold, in order."""
        types = {o.name: o.type for o in self.session.get_outputs()}
        wanted = ("tensor(float)", "tensor(double)", "tensor(float16)")
        return [name for name in names if types.get(name) in wanted]

    def run(self, feeds: dict[str, Any], taps: Sequence[str] = ()) -> dict[str, Any]:
        """Outputs and taps by name. Raises ModelError, one line, when the model cannot run on the feeds."""
        fetch = [*(self._casts.get(n, n) for n in self.names), *taps]
        try:
            results = self._run(fetch, feeds)
        except Exception as error:
            raise ModelError(one_line(error)) from error
        return dict(zip((*self.names, *taps), results))

    def _run(self, fetch: list[str], feeds: dict[str, Any]) -> list[Any]:
        if not any(isinstance(v, np.ndarray) and _foreign(v.dtype) for v in feeds.values()):
            return list(self.session.run(fetch, feeds))
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                value.view(np.uint16 if value.dtype.itemsize == 2 else np.uint8), _ONNX_OF[value.dtype.name]
            )
            if _foreign(value.dtype)
            else ort.OrtValue.ortvalue_from_numpy(value)
            for name, value in feeds.items()
        }
        return [v.numpy() for v in self.session.run_with_ort_values(fetch, values)]


_ONNX_OF = {
    "bfloat16": onnx.TensorProto.BFLOAT16, "float8_e4m3fn": onnx.TensorProto.FLOAT8E4M3FN,
    "float8_e4m3fnuz": onnx.TensorProto.FLOAT8E4M3FNUZ, "float8_e5m2": onnx.TensorProto.FLOAT8E5M2,
    "float8_e5m2fnuz": onnx.TensorProto.FLOAT8E5M2FNUZ,
}  # fmt: skip


def _foreign(dtype: np.dtype[Any]) -> bool:
    return dtype.name in _ONNX_OF


def open_source(model: Any, what: str = "model") -> Source:
    """Open a path, bytes, onnx.ModelProto, onnx_ir.Model or graphopt.ir.Model. Raises ModelError, one line."""
    if isinstance(model, (str, os.PathLike)):
        return _open_path(Path(model), what)
    if isinstance(model, (bytes, bytearray, memoryview)):
        return Source(_parse(bytes(model), what), None, None)
    if isinstance(model, onnx.ModelProto):
        return Source(model, None, None)
    if isinstance(model, IRModel):
        from ..onnx_io import to_proto

        lifted: onnx.ModelProto = to_proto(model)
        return Source(lifted, None, folder_of(model))
    import onnx_ir

    if isinstance(model, onnx_ir.Model):
        return _open_onnx_ir(model)
    raise ModelError(f"{what}: expected a path, bytes, onnx.ModelProto or onnx_ir.Model, got {type(model).__name__}")


def signature_of(model: Any, what: str = "model") -> Signature:
    """What a model takes; unlike `open_source` it emits no graphopt.ir.Model. Raises ModelError, one line."""
    if not isinstance(model, IRModel):
        return open_source(model, what)
    infos = (
        onnx.ValueInfoProto(name=v.name, type=None if v.type is None else type_proto(v.type))
        for v in model.graph.inputs
        if v.default is None
    )
    return Inputs(tuple(map(_port, infos)))


def folder_of(model: IRModel) -> Path | None:
    """Where the external weights of an IR model lie."""
    return Path(model.folder) if model.folder else None


def _open_path(path: Path, what: str) -> Source:
    if not path.is_file():
        raise ModelError(f"{what}: {path} is {'a directory' if path.is_dir() else 'not there'}")
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{what}: {path} cannot be read: {one_line(error)}") from error
    return Source(_parse(blob, f"{what}: {path}"), path, path.resolve().parent)


def _parse(blob: bytes, what: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(blob)
    except Exception as error:
        raise ModelError(f"{what} is no ONNX model, or is truncated") from error
    if not proto.HasField("graph"):
        raise ModelError(f"{what} is no ONNX model: it has no graph")
    return proto


def _open_onnx_ir(model: Any) -> Source:
    import onnx_ir

    tensors = [v.const_value for v in model.graph.initializers.values()]
    folders = [str(t.base_dir) for t in tensors if isinstance(t, onnx_ir.ExternalTensor)]
    inside = sum(t.nbytes for t in tensors if t is not None and not isinstance(t, onnx_ir.ExternalTensor))
    if inside < _LARGE and len(set(folders)) <= 1:
        proto: onnx.ModelProto = onnx_ir.to_proto(model)
        return Source(proto, None, Path(folders[0]).resolve() if folders else None)
    scratch = tempfile.TemporaryDirectory(prefix="graphopt-")
    path = Path(scratch.name, "model.onnx")
    onnx_ir.save(model, path, external_data="model.onnx.data")
    source = _open_path(path, "model")
    source.scratch = scratch
    return source


def walk_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph, of graphs nested in it and of the model's functions."""
    yield from _walk(proto.graph.node)
    for function in proto.functions:
        yield from _walk(function.node)


def _walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in nested_graphs(node):
            yield from _walk(graph.node)


def nested_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    found = []
    for attr in node.attribute:
        if attr.type == onnx.AttributeProto.GRAPH:
            found.append(attr.g)
        elif attr.type == onnx.AttributeProto.GRAPHS:
            found.extend(attr.graphs)
    return found


def one_line(error: BaseException | str) -> str:
    """The first telling line of an error, without onnxruntime's prefix of codes and source places."""
    text = " ".join(str(error).split())
    for mark in (
        "Status Message: ",
        " : FAIL : ",
        " : INVALID_ARGUMENT : ",
        " : NOT_IMPLEMENTED : ",
        " : INVALID_GRAPH : ",
    ):
        text = text.rpartition(mark)[2] if mark in text else text
    return text[:300] or type(error).__name__


def _is_quantized(node: onnx.NodeProto) -> bool:
    return node.op_type in QUANTIZED_OPS or node.op_type.startswith("QLinear")


def _external_length(tensor: onnx.TensorProto) -> int:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return 0
    for entry in tensor.external_data:
        if entry.key == "length":
            return int(entry.value)
    return 1


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Port(value.name, 0, None, value.type)
    tensor = value.type.tensor_type
    dims: tuple[int | str | None, ...] | None = None
    if tensor.HasField("shape"):
        dims = tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim)
    return Port(value.name, tensor.elem_type, dims, value.type)
