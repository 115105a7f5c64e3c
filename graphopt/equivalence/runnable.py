"""A runnable model: its protobuf, the folder of its external weights, and sessions on it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from ..errors import ModelError, OptionError, did_you_mean, one_line
from ..ir import Array
from ..ir import Model as IRModel
from ..machine.sessions import (
    ASLEEP,
    CONVOLUTIONS,
    DISABLE_PACKING,
    FOLDING,
    LARGE,
    PACKED_BESIDE,
    open_session,
    session_options,
    spare_memory,
)
from ..onnx_io import is_large
from ..onnx_io.lend import WeightPool, lend_to, lent_emission, on_disk
from ..onnx_io.parts.apart import LENDABLE, read_apart, with_lent
from ..onnx_io.parts.cache_sizes import cache_sizes
from ..onnx_io.parts.tensors import DataFiles, read_constant
from ..onnx_io.pieces import is_blocked, open_large
from ..onnx_io.source import is_onnx_ir
from ..onnx_io.weights import half_bytes, nbytes
from ..ops import initializers_of, type_proto
from .onnx_graph import walk_nodes
from .tapped import TappedSession
from .value_info import Inputs, Signature, ValueInfo

if TYPE_CHECKING:
    import onnx_ir

    from ..onnx_io.source import ModelSource

_WIDENED = {
    onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.FLOAT8E4M3FNUZ,
    onnx.TensorProto.FLOAT8E5M2, onnx.TensorProto.FLOAT8E5M2FNUZ, onnx.TensorProto.INT4, onnx.TensorProto.UINT4,
    onnx.TensorProto.FLOAT4E2M1,
}  # fmt: skip
"""Element types that numpy lacks: outputs of these types are read through a Cast to float, which is exact."""

QUANTIZED_OPS = frozenset((
    "QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QAttention", "QGemm", "QEmbedLayerNormalization",
))  # fmt: skip

PACKED = frozenset(("MatMulNBits", "MatMulBnb4", "GatherBlockQuantized", "QMoE"))
"""Operators of onnxruntime that compute differently without constant weights: MatMulNBits then multiplies floats, while
it packs constants to multiply 8-bit integers."""

PACKABLE = 1 << 26
"""Bytes of weights, 64 MiB, above which sessions of a comparison do not pack them: packed copies serve many runs, and
take as much memory as the model. A comparison of LSTMs of 400 MB takes 2.9 s without and 5.0 s with packing:
`python -m tests.bench.bounds --kinds recurrent --forms compared`."""

COPIED = 1 << 28
"""Bytes of convolutions' weights, 256 MiB, above which onnxruntime's optimizers do not copy them, up to twice; and half
of the bytes of all weights above which it folds no constants. Together with other copies they stay below 1 GB."""

_IN_FLOAT, _IN_CODES = 1, 4
"""accuracy_level of MatMulNBits: float32; the other operand rounded to 8 bits."""

RUNTIMES = ("onnxruntime", "torch")
"""Runtimes of compared models; torch is the extra `train`."""


class RunnableModel:
    """A model opened for running. The protobuf is never edited; edited copies are run from bytes.

    folder: of external weights. lent: weights, by name, that the protobuf describes but does not hold
    (`onnx_io.lend`). scratch: a temporary folder that lives as long as the model. runtime: of the sessions.
    """

    def __init__(
        self, proto: onnx.ModelProto, path: Path | None, folder: Path | None, lent: Mapping[str, Array] | None = None,
        scratch: tempfile.TemporaryDirectory[str] | None = None, runtime: str = "onnxruntime",
    ) -> None:  # fmt: skip
        self.proto, self.path, self.folder, self.lent, self.scratch = proto, path, folder, lent or {}, scratch
        self.runtime = runtime
        initializers = {t.name for t in proto.graph.initializer} | {
            t.values.name for t in proto.graph.sparse_initializer
        }
        sizes = cache_sizes(proto.graph)
        given = (ValueInfo.of(v) for v in proto.graph.input if v.name not in initializers)
        self.inputs = tuple(value.with_sizes(sizes.get(value.name, {})) for value in given)
        self.outputs = tuple(map(ValueInfo.of, proto.graph.output))
        self.is_quantized = any(_is_quantized(node) for node in walk_nodes(proto))

    @property
    def is_dequantized(self) -> bool:
        """Whether weights share a DequantizeLinear or a zero point, so that onnxruntime may refuse precise products."""
        return self.is_quantized or any(node.op_type == "DequantizeLinear" for node in walk_nodes(self.proto))

    @property
    def external_bytes(self) -> int:
        """Bytes of external weights."""
        return sum(_external_length(t) for t in initializers_of(self.proto.graph) if t.name not in self.lent)

    @property
    def is_large(self) -> bool:
        """Whether the weights are too large to copy."""
        return self._outside > LARGE

    @property
    def _packs(self) -> bool:
        """Whether weights of fewer than 8 bits are lent, which a session takes only from files."""
        return any(t.name in self.lent and t.data_type not in LENDABLE for t in self.proto.graph.initializer)

    @property
    def _outside(self) -> int:
        return self.external_bytes + sum(array.nbytes for array in self.lent.values())

    @property
    def _needs_packing(self) -> bool:
        """Whether an operator computes differently, or unpacks a weight in each run, where it did not pack it."""
        return any(node.op_type in PACKED or is_blocked(node) for node in walk_nodes(self.proto))

    @property
    def _left_out(self) -> tuple[str, ...]:
        """onnxruntime's optimizers that would copy more weights than `COPIED` bytes."""
        if self._outside <= COPIED:
            return ()
        sizes = {tensor.name: nbytes(tensor) for tensor in self.proto.graph.initializer}
        read = {name for node in self.proto.graph.node if node.op_type == "Conv" for name in node.input}
        in_convolutions = sum(size for name, size in sizes.items() if name in read)
        folding = FOLDING if self._outside > 2 * COPIED else ()
        return (*folding, *(CONVOLUTIONS if in_convolutions > COPIED else ()))

    def in_runtime(self, runtime: str) -> RunnableModel:
        """The same model in another runtime. OptionError for a runtime not in `RUNTIMES`."""
        if runtime not in RUNTIMES:
            raise OptionError(f"runtime {runtime!r} is none of {', '.join(RUNTIMES)}{did_you_mean(runtime, RUNTIMES)}")
        if runtime == self.runtime:
            return self
        return RunnableModel(self.proto, self.path, self.folder, self.lent, self.scratch, runtime)

    def edited(self, proto: onnx.ModelProto) -> RunnableModel:
        """An edited copy of the protobuf with the same external and lent weights, in the same runtime."""
        return RunnableModel(proto, None, self.folder, self.lent, self.scratch, self.runtime)

    def whole(self) -> RunnableModel:
        """The same model with all weights in the protobuf."""
        return RunnableModel(with_lent(self.proto, self.lent), self.path, self.folder) if self.lent else self

    def session(
        self,
        *,
        optimize: bool,
        threads: int | None = None,
        taps: Iterable[str] = (),
        edited: onnx.ModelProto | None = None,
        fed: Mapping[str, Array] | None = None,
        strict: bool = False,
        precise: bool = True,
        prepack: bool = True,
        serves: bool = False,
    ) -> TappedSession:
        """An onnxruntime CPU session with all optimizations or with none; or a torch session, without this distinction.

        `taps` are inner values to return beside the outputs; `edited` runs an edited copy in place of the model, and
        each run of it also feeds `fed`, by input name. strict: do not fall back to loading without optimizations.
        precise: 8-bit products that never saturate, if onnxruntime can load the model this way. prepack: weights of up
        to `PACKABLE` bytes are packed for many runs. serves: for hundreds of runs, so that weights are packed and
        constants folded whatever memory that takes, up to `PACKED_BESIDE` bytes of weights. Raises ModelError, one
        line, when onnxruntime refuses the model; Unsupported when torch lacks an operator, OptionError without torch.
        """
        proto, lends = self.proto if edited is None else edited, self.lent
        if self.runtime == "torch":
            return self._torch_session(taps, proto)
        folder = str(self.folder) if self.folder is not None and self.external_bytes else ""
        if self.is_large or self._packs:
            proto, lends, folder = on_disk(proto, self.lent, str(self.folder or ""))
        serves = serves and (self._outside <= PACKED_BESIDE or self._needs_packing)
        entries = {"session.x64quantprecision": "1", **ASLEEP} if precise else ASLEEP
        settings = partial(session_options, threads=threads, optimize=optimize, entries=entries)
        taps = tuple(taps)
        addition, casts = self._addition(taps)
        held: object = ()
        try:
            if self.is_large:
                proto.MergeFrom(addition)
                session = open_large(proto, lends, folder, settings, self._outside)
            else:
                options = settings(folder=folder)
                if not prepack or not (serves or self._outside <= PACKABLE or self._needs_packing):
                    options.add_session_config_entry(DISABLE_PACKING, "1")
                if len(addition.graph.output) > len(casts):  # results that are kept would keep all of an arena
                    options.enable_mem_pattern = options.enable_cpu_mem_arena = False
                if not serves and half_bytes(self.proto) > COPIED:  # onnxruntime would widen all of them at loading
                    spare_memory(options, self._outside, half_bytes(self.proto))
                held, without = lend_to(options, proto, lends), () if serves else self._left_out
                if edited is None and self.path is not None and not self.lent and not addition.ByteSize():
                    session = open_session(str(self.path), options, without=without)
                else:
                    # Serialized messages merge when concatenated: outputs are appended without copying weights.
                    made = proto.SerializeToString() + addition.SerializeToString()
                    session = open_session(made, options, without=without)
        except Exception:  # also of versions that take no lent weights
            puts_back = bool(lends) and not self.is_large
            model = self.whole() if puts_back else self
            whole = with_lent(edited, self.lent) if puts_back and edited is not None else edited
            again = partial(
                model.session, threads=threads, taps=taps, edited=whole, fed=fed, strict=strict, serves=serves
            )
            if puts_back:
                return again(optimize=optimize, precise=precise)
            if precise and self.is_dequantized and (strict or not (optimize and self.is_quantized)):
                return again(optimize=optimize, precise=False)
            if optimize and not strict:
                return again(optimize=False)
            raise
        return TappedSession(session, self.outputs, casts, (held, self.lent), fed or {})

    def _addition(self, taps: Iterable[str]) -> tuple[onnx.ModelProto, dict[str, str]]:
        """The proto that sessions append to the model: outputs of taps, casts of results to float; casts by name."""
        addition, outputs = onnx.ModelProto(), {p.name for p in self.outputs}
        addition.graph.output.extend(onnx.ValueInfoProto(name=name) for name in taps if name not in outputs)
        casts = {}
        for output in self.outputs:
            if output.elem in _WIDENED:
                casts[output.name] = name = f"{output.name}::float"
                addition.graph.node.append(onnx.helper.make_node("Cast", [output.name], [name], to=1))
                addition.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
        return addition, casts

    def _torch_session(self, taps: Iterable[str], proto: onnx.ModelProto) -> TappedSession:
        from ..onnx_io import load
        from ..torch import TorchSession

        addition, casts = self._addition(taps)
        whole = onnx.ModelProto()
        whole.CopyFrom(with_lent(proto, self.lent) if self.lent else proto)
        whole.MergeFrom(addition)
        session = TorchSession(load(whole, folder=str(self.folder or "")))
        return TappedSession(session, self.outputs, casts)

    def with_unrounded_products(self) -> RunnableModel:
        """The same model without rounding of the other operand to 8 bits in products with stored weights, which leaves
        the values before each such product uncertain by half a step, in layer after layer."""
        if not any(map(_rounded_by, walk_nodes(self.proto))):
            return self
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for attribute in filter(None, map(_rounded_by, walk_nodes(proto))):
            attribute.i = _IN_FLOAT
        return self.edited(proto)

    def with_weights_lent(self, pool: WeightPool | None = None) -> RunnableModel:
        """The same model with large weights lent, which all its sessions read; a pool shares equal arrays. The model
        itself where large weights are few, or in torch, whose sessions have their own tensors.
        """
        if self.runtime == "torch":
            return self
        pool = pool or WeightPool()
        proto, lent = (self.proto, pool.adopt(self.lent)) if self.lent else pool.lend(self.proto)
        return RunnableModel(proto, self.path, self.folder, lent, self.scratch) if lent else self


def open_runnable(
    model: ModelSource | IRModel | RunnableModel, label: str = "model", folder: Path | None = None
) -> RunnableModel:
    """Open a model for running; an open one is returned. Raises ModelError, one line that begins with `label`, also for
    external data that is missing or too short.

    folder: of the external weights of a model without a path of its own (bytes, a ModelProto).
    """
    if isinstance(model, RunnableModel):
        return model
    if isinstance(model, (str, os.PathLike)):
        return _with_data(_open_path(Path(model), label), label)
    if isinstance(model, (bytes, bytearray, memoryview)):
        return _with_data(RunnableModel(_parse(bytes(model), label), None, folder), label)
    if isinstance(model, onnx.ModelProto):
        return _with_data(RunnableModel(model, None, folder), label)
    if isinstance(model, IRModel):
        emitted = lent_emission(model, packed=is_large(model))
        return RunnableModel(emitted.proto, None, folder_of(model) or folder, emitted.lent)
    if is_onnx_ir(model):
        return _open_onnx_ir(model, folder)
    raise ModelError(f"{label}: expected a path, bytes, onnx.ModelProto or onnx_ir.Model, got {type(model).__name__}")


def _with_data(model: RunnableModel, label: str) -> RunnableModel:
    """The model, whose external data were found; ModelError."""
    files = DataFiles(str(model.folder or ""), str(model.path or ""))
    for tensor in initializers_of(model.proto.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL and tensor.name not in model.lent:
            read_constant(tensor, files, f"{label}: {tensor.name}")
    return model


def signature_of(model: ModelSource | IRModel, label: str = "model") -> Signature:
    """The inputs of a model, read without emitting a graphopt.ir.Model. Raises ModelError, one line."""
    if not isinstance(model, IRModel):
        return open_runnable(model, label)
    infos = (
        onnx.ValueInfoProto(name=v.name, type=None if v.type is None else type_proto(v.type))
        for v in model.graph.inputs
        if v.default is None
    )
    return Inputs(tuple(map(ValueInfo.of, infos)))


def folder_of(model: IRModel) -> Path | None:
    """The folder of an IR model's external weights."""
    return Path(model.folder) if model.folder else None


def _open_path(path: Path, label: str) -> RunnableModel:
    if not path.is_file():
        raise ModelError(f"{label}: {path} is {'a directory' if path.is_dir() else 'not there'}")
    apart = read_apart(str(path))
    if apart is not None:
        return RunnableModel(apart[0], path, path.resolve().parent, apart[1])
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{label}: {path} cannot be read: {one_line(error)}") from error
    return RunnableModel(_parse(blob, f"{label}: {path}"), path, path.resolve().parent)


def _parse(blob: bytes, label: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(blob)
    except Exception as error:
        raise ModelError(f"{label} is no ONNX model, or is truncated") from error
    if not proto.HasField("graph"):
        raise ModelError(f"{label} is no ONNX model: it has no graph")
    return proto


def _open_onnx_ir(model: onnx_ir.Model, folder: Path | None) -> RunnableModel:
    """The model as a protobuf; saved to a temporary folder if its weights exceed one or lie in several folders."""
    import onnx_ir

    tensors = [v.const_value for v in model.graph.initializers.values()]
    folders = [str(t.base_dir) for t in tensors if isinstance(t, onnx_ir.ExternalTensor)]
    inside = sum(t.nbytes for t in tensors if t is not None and not isinstance(t, onnx_ir.ExternalTensor))
    if inside < LARGE and len(set(folders)) <= 1:
        return RunnableModel(onnx_ir.to_proto(model), None, Path(folders[0]).resolve() if folders else folder)
    scratch = tempfile.TemporaryDirectory(prefix="graphopt-")
    path = Path(scratch.name, "model.onnx")
    onnx_ir.save(model, path, external_data="model.onnx.data")
    saved = _open_path(path, "model")
    return RunnableModel(saved.proto, saved.path, saved.folder, scratch=scratch)


def _rounded_by(node: onnx.NodeProto) -> onnx.AttributeProto | None:
    """The attribute with which a product rounds its other operand; None where it does not round."""
    if (node.domain, node.op_type) != ("com.microsoft", "MatMulNBits"):
        return None
    return next((a for a in node.attribute if a.name == "accuracy_level" and a.i == _IN_CODES), None)


def _is_quantized(node: onnx.NodeProto) -> bool:
    return node.op_type in QUANTIZED_OPS or node.op_type.startswith("QLinear")


def _external_length(tensor: onnx.TensorProto) -> int:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return 0
    for entry in tensor.external_data:
        if entry.key == "length":
            return int(entry.value)
    return 1
