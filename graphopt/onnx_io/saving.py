"""Saving of a model, with its weights in a file beside it where the format or the caller requires it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from ..errors import ModelError, OutputError
from ..ir import Array, Constant, DType, Model
from ..machine.files import beside_name, check_target, replace_file, reported, sync_folder
from ..ops import initializers_of
from .digesting import DigestingFile
from .emit import Emitter
from .lend import PROTO_LIMIT, Emission, lifted_from
from .lift import load
from .parts.apart import WORTH
from .parts.extras import ModelExtras
from .parts.stream import write_proto
from .parts.tensors import describe_external, external_source, stored_bytes, write_tensor
from .size import external_bytes, proto_bytes
from .source import read_proto
from .weights import constants_of, is_large

_EXTERNAL_BYTES = 1024  # smaller tensors stay in the file: shape inference reads some of them
_PAGE_FROM, _PAGE, _LINE = 1 << 20, 4096, 64
"""Bytes from which a tensor in the data file is aligned to pages, so that it can be mapped; smaller ones are aligned to
cache lines."""


def save(model: Model | onnx.ModelProto | Emission, path: str | Path, *, external: bool | None = None) -> None:
    """Write a model so that a reader, at any moment, finds the old model whole or the new one.

    `external`: True puts tensors of 1 KB and more into `<name>.data` beside the file, False puts everything into the
    file, None acts as True only if the file would exceed protobuf's 2 GB, or weights of 1 MB and more replaced external
    ones. Unchanged tensors of an external file stay external; saved to the same folder, the model refers to that file
    without a copy. Data is streamed: memory does not grow with it.

    The data file takes its canonical name only if that breaks no model: if a file of that name exists that the model at
    `path` does not own, the new one is named by its content, `<name>.<digest>.data`. OutputError if the file cannot be
    written; ModelError if the model's own data cannot be read.
    """
    path = os.fspath(path)
    check_target(path)
    with reported(path):
        if isinstance(model, Emission):
            if not external and not _has_external(model) and _fits(model):
                _write_proto(model.proto, path, model.lent)
                return
            model = model.whole()
        if isinstance(model, onnx.ModelProto):
            if not external and not _has_external(Emission(model)) and _fits(Emission(model)):
                _write_proto(model, path)
                return
            model = load(model, infer=False, folder=os.path.dirname(path))
        _save(model, path, external)


def lies_outside(model: Model) -> bool:
    """Whether a model is by default saved with a data file: it has or had external data, or is large."""
    return external_bytes(model) > 0 or is_large(model) or _was_external(model)


def _was_external(model: Model) -> bool:
    """Whether new weights of a model replace external ones."""
    source = lifted_from(model)
    if source is None or not _has_external(source):
        return False
    return sum(c.nbytes for c in constants_of(model) if external_source(c) is None) >= WORTH


def _save(model: Model, path: str, external: bool | None) -> None:
    if external is None and _was_external(model):
        external = True
    large = [c for c in constants_of(model) if external_source(c) is None or external is False]
    if external is not True and sum(c.nbytes for c in large) > PROTO_LIMIT:
        if external is False:
            raise OutputError(f"{path!r} cannot be written: one file cannot hold more than 2 GB, use external data")
        external = True
    data = _Data(external, _same_folder(model.folder, path))
    proto = Emitter(model, store=data.store).model()
    if not data.tensors:
        _write_proto(proto, path)
        return
    canonical = path + ".data"
    if not os.path.lexists(canonical):
        data.write(canonical)
        data.refer(proto, os.path.basename(canonical))
        _write_proto(proto, path)
        return
    _replace_pair(model, proto, data, path, canonical)


def _replace_pair(model: Model, proto: onnx.ModelProto, data: _Data, path: str, canonical: str) -> None:
    """Replace a model whose data file has the canonical name of the new data file.

    Two files cannot be renamed at once. So the new data gets a temporary name, and the model is switched to it; only
    then, with the old data unreferenced, the new data takes the canonical name, and the model is switched again.
    """
    name = os.path.basename(canonical)
    is_owned = name in _locations_at(path) and not _is_source(model, path) and name not in _locations(proto)
    unique = data.write(canonical, by_digest=True)
    data.refer(proto, os.path.basename(unique))
    _write_proto(proto, path)
    if not is_owned:
        return
    link = beside_name(canonical)
    try:
        os.link(unique, link)
    except OSError:  # no hard links on this file system: the pair is consistent as it is
        return
    os.replace(link, canonical)
    sync_folder(canonical)
    data.refer(proto, name)
    _write_proto(proto, path)
    with suppress(FileNotFoundError):
        os.unlink(unique)


@dataclass(slots=True)
class _Data:
    """The tensors of the data file by name, and their offsets; names are unique, also in nested graphs."""

    external: bool | None
    in_place: bool  # the model is saved to the folder of its external data
    tensors: dict[str, tuple[Constant, int]] = field(default_factory=dict)
    places: dict[Constant, int] = field(default_factory=dict)
    size: int = 0

    def store(self, proto: onnx.TensorProto, constant: Constant, name: str) -> None:
        """Fill the proto of an initializer."""
        lies_outside = external_source(constant) is not None
        if lies_outside and self.external is False:
            write_tensor(proto, Constant(constant.dtype, constant.shape, constant.array), name)
        elif lies_outside and self.in_place:
            write_tensor(proto, constant, name)
        elif lies_outside or self._is_wanted(constant):
            describe_external(proto, constant, name)
            self.tensors[name] = constant, self._place(constant)
        else:
            write_tensor(proto, constant, name)

    def _is_wanted(self, constant: Constant) -> bool:
        return bool(self.external) and constant.dtype is not DType.STRING and constant.nbytes >= _EXTERNAL_BYTES

    def _place(self, constant: Constant) -> int:
        known = self.places.get(constant)
        if known is not None:
            return known
        step = _PAGE if constant.nbytes >= _PAGE_FROM else _LINE
        offset = self.places[constant] = -(-self.size // step) * step
        self.size = offset + constant.nbytes
        return offset

    def refer(self, proto: onnx.ModelProto, location: str) -> None:
        """Point the tensors of a model at the data file."""
        for tensor in initializers_of(proto.graph):
            if tensor.name not in self.tensors:
                continue
            constant, offset = self.tensors[tensor.name]
            del tensor.external_data[:]
            for key, value in (("location", location), ("offset", offset), ("length", constant.nbytes)):
                tensor.external_data.add(key=key, value=str(value))

    def write(self, path: str, by_digest: bool = False) -> str:
        """Write the data file; returns its path, which carries the content's digest if `by_digest`."""
        beside, digest = beside_name(path), ""

        def write(file: BinaryIO) -> None:
            nonlocal digest
            out = DigestingFile(file, by_digest)
            for constant, offset in self.places.items():
                out.pad_to(offset)
                out.write(stored_bytes(constant))
            digest = out.digest

        try:
            replace_file(beside, write)
            final = f"{path.removesuffix('.data')}.{digest}.data" if by_digest else path
            os.replace(beside, final)
            sync_folder(final)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(beside)
        return final


def _write_proto(proto: onnx.ModelProto, path: str, lent: Mapping[str, Array] | None = None) -> None:
    try:
        replace_file(path, partial(write_proto, proto, lent=lent))
    except (EncodeError, ValueError) as error:
        raise OutputError(f"{path!r} cannot be written: the model exceeds protobuf's 2 GB without its data") from error


def _fits(model: Emission) -> bool:
    try:
        return proto_bytes(model.proto, model.lent) <= PROTO_LIMIT
    except (EncodeError, ValueError):
        return False


def _has_external(model: Emission) -> bool:
    tensors = initializers_of(model.proto.graph)
    return any(t.external_data and t.name not in model.lent for t in tensors)


def _locations(proto: onnx.ModelProto) -> set[str]:
    """The external files to which a model's initializers refer."""
    tensors = initializers_of(proto.graph)
    return {entry.value for t in tensors if t.external_data for entry in t.external_data if entry.key == "location"}


def _locations_at(path: str) -> set[str]:
    """The external files of the model at `path`; none if there is no model."""
    if not os.path.exists(path):
        return set()
    try:
        return _locations(read_proto(path)[0])
    except ModelError:
        return set()


def _same_folder(folder: str, path: str) -> bool:
    return os.path.realpath(folder or ".") == os.path.realpath(os.path.dirname(path) or ".")


def _is_source(model: Model, path: str) -> bool:
    source = model.raw.path if isinstance(model.raw, ModelExtras) else ""
    return bool(source) and os.path.exists(source) and os.path.exists(path) and os.path.samefile(source, path)
