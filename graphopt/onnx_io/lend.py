"""Emission of models for sessions in this process: weights stay in memory, outside the proto ("lent" weights)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx

from ..errors import ModelError, OutputError
from ..ir import Array, Constant, DType, Model, Node, Value, clone_model
from ..machine.sessions import borrow, open_session
from ..machine.spool import Spool, place_of
from ..ops import initializers_of
from .emit import Emitter, to_proto
from .parts.apart import ELEMENTS, LENDABLE, LOCATION, WORTH, describe_lent, with_lent
from .parts.extras import ModelExtras
from .parts.tensors import PackedSource, ProtoSource, describe_external, external_source, write_tensor
from .weights import is_large

if TYPE_CHECKING:
    import onnxruntime

PROTO_LIMIT = (1 << 31) - (1 << 24)
"""Bytes of weights that a protobuf may hold: its 2 GiB, less room for the structure."""
HELD = 1 << 28
"""Bytes of new weights, 256 MiB, that an emission holds in memory: with as much for a comparison's own they leave half
of 1 GB free."""
LEAST = 1 << 10
"""Bytes of the smallest lent tensor; smaller ones are shapes and scalars, which shape inference reads."""


class Lender:
    """The `store` of an `Emitter` that keeps large tensors, by name, in `lent`; the proto only describes them.

    Opening a session copies a proto with its weights four times; each copy costs more than its bytes, since the system
    maps fresh memory page by page.
    """

    def __init__(self, *, packed: bool = True) -> None:
        """packed: lend also weights of fewer than 8 bits, which a session takes only from files."""
        self.lent: dict[str, Array] = {}
        self._packed, self._rest = packed, _Overflow(HELD)

    def store(self, proto: onnx.TensorProto, constant: Constant, name: str) -> None:
        """Fill the proto of an initializer."""
        is_packed, is_new = isinstance(constant.source, PackedSource), external_source(constant) is None
        is_lent = self._packed if is_packed else constant.dtype in LENDABLE and is_new
        if constant.nbytes < LEAST or not is_lent:
            write_tensor(proto, constant, name)
            return
        describe_external(proto, constant, name)
        describe_lent(proto, constant.nbytes)
        is_computed = constant.source is None and not constant.is_held
        self.lent[name] = self._rest.kept(_elements(constant)) if is_computed else _elements(constant)


def lent_emission(model: Model, *, packed: bool = True) -> Emission:
    """The model as ONNX for a session in this process, with large weights lent by a `Lender`, uncopied."""
    lender = Lender(packed=packed)
    emitted = _reading_halves(model) if is_large(model) else model
    return Emission(Emitter(emitted, store=lender.store, store_inside=write_tensor).model(), lender.lent)


def _reading_halves(model: Model) -> Model:
    """The model with a Cast of each float16 weight on disk right before its reader: all of them, widened at once, would
    be in memory together."""
    if not any(_half_of(value) for node in model.graph.walk() for value in node.inputs):
        return model
    copy = clone_model(model)
    for node in list(copy.graph.walk()):
        for slot, value in enumerate(node.inputs):
            half = _half_of(value)
            if value is None or half is None:
                continue
            cast = Node("Cast", (Value(name=value.name, constant=half),), {"to": int(DType.FLOAT)}, [value.type])
            copy.graph.insert_before(node, cast)
            copy.graph.set_input(node, slot, cast.output)
    return copy


def _half_of(value: Value | None) -> Constant | None:
    """The float16 constant on disk behind a widened constant value; None for any other value."""
    half = None if value is None or value.constant is None else value.constant.half
    return None if half is None or external_source(half) is None else half


def lend_to(settings: onnxruntime.SessionOptions, proto: onnx.ModelProto, lent: Mapping[str, Array]) -> object:
    """Let a session with these settings read the lent weights that the proto only describes. The result must live as
    long as the session."""
    outside = sum(t.data_location == onnx.TensorProto.EXTERNAL for t in initializers_of(proto.graph))
    taken = {
        t.name: lent[t.name]
        for t in proto.graph.initializer
        if t.data_location == onnx.TensorProto.EXTERNAL and t.name in lent
    }
    return borrow(settings, taken, LOCATION if len(taken) == outside else None)


def open_lent(model: Model, settings: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session that reads weights in place in this process; in a serialized model they would be copied four times."""
    emitted = lent_emission(model, packed=False)
    held = lend_to(settings, emitted.proto, emitted.lent)
    session = open_session(emitted.proto.SerializeToString(), settings)
    session.lent = held, emitted.lent  # they must live as long as the session does
    return session


def on_disk(
    proto: onnx.ModelProto, lent: Mapping[str, Array], folder: str
) -> tuple[onnx.ModelProto, dict[str, Array], str]:
    """The model with locations of all weights on disk, in its folder or in a `Spool`, which a session then maps, as it
    would copy lent ones; the weights that are still lent; and the folder to which the locations are relative."""
    placed, left = onnx.ModelProto(), dict[str, Array]()
    placed.CopyFrom(proto)
    root = os.path.abspath(os.sep)  # onnxruntime refuses data outside its configured folder
    for tensor in initializers_of(placed.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        array = lent.get(tensor.name)
        place = None if array is None else place_of(array)
        if array is not None and place is None:
            left[tensor.name] = array
            continue
        for entry in tensor.external_data:
            if entry.key == "location":
                path = os.path.join(folder, entry.value) if place is None else place.path
                entry.value = os.path.relpath(os.path.realpath(path), root)
        if place is not None:
            tensor.external_data.add(key="offset", value=str(place.offset))
    return placed, left, root


@dataclass(slots=True)
class Emission:
    """A model as ONNX. lent: large weights by name, which the proto only describes; empty if it holds all weights."""

    proto: onnx.ModelProto
    lent: Mapping[str, Array] = field(default_factory=dict)

    def whole(self) -> onnx.ModelProto:
        """Move the lent weights into the proto and return it. ModelError where they exceed 2 GB."""
        if sum(array.nbytes for array in self.lent.values()) >= PROTO_LIMIT:
            raise ModelError("the model exceeds protobuf's 2 GB: save it, its data will lie beside the file")
        if self.lent:
            self.proto, self.lent = with_lent(self.proto, self.lent), {}
        return self.proto


def emission(model: Model) -> Emission:
    """The model as ONNX; weights read apart (`read_apart`), and new weights of such a model or of a large one, stay
    outside the proto, new ones of more than `HELD` bytes in temporary files."""
    source = lifted_from(model)
    if not is_large(model) and (source is None or not source.lent):
        return Emission(to_proto(model))
    lent, rest = dict[str, Array](), _Overflow(HELD)

    def store(proto: onnx.TensorProto, constant: Constant, name: str) -> None:
        array = _lendable_array(constant)
        if array is None:
            write_tensor(proto, constant, name)
            return
        describe_external(proto, constant, name)
        describe_lent(proto, array.nbytes)
        lent[name] = array if isinstance(constant.source, ProtoSource) else rest.kept(array)

    return Emission(Emitter(model, store=store, store_inside=write_tensor).model(), lent)


class _Overflow:
    """Arrays of which the first `room` bytes stay in memory, and the rest in files, where the disk takes it."""

    def __init__(self, room: int) -> None:
        self._room, self._spool = room, Spool()

    def kept(self, array: Array) -> Array:
        """The array, or a read-only copy of it in a file."""
        self._room -= array.nbytes
        if self._room >= 0 or place_of(array) is not None:
            return array
        with suppress(OutputError):
            return self._spool.keep(array)
        return array


def lifted_from(model: Model) -> Emission | None:
    """The proto and weights that a model was lifted from, read-only; None for models from elsewhere."""
    if not isinstance(model.raw, ModelExtras) or model.raw.proto is None:
        return None
    return Emission(model.raw.proto, model.raw.lent)


def _lendable_array(constant: Constant) -> Array | None:
    """The elements of a constant to lend; None where the proto holds them."""
    source = constant.source
    if isinstance(source, ProtoSource):
        return source.lent
    is_lendable = isinstance(source, PackedSource) or (source is None and constant.dtype in LENDABLE)
    return _elements(constant) if is_lendable and constant.size > ELEMENTS else None


def _elements(constant: Constant) -> Array:
    """The elements in memory; types below 8 bits packed, which only a session that maps files takes."""
    source = constant.source
    return source.packed if isinstance(source, PackedSource) else np.ascontiguousarray(constant.array())


_CHUNK = 1 << 24
"""Bytes compared at a time: a comparison of arrays allocates a result array."""
_SAMPLED = 64
"""Sampled bytes of a tensor, which distinguish it from most others of its size."""


class WeightPool:
    """Deduplicates weights by content: one array for all equal weights, of one model or of several."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[int, ...], bytes], list[Array]] = {}
        self._named: dict[str, tuple[onnx.TensorProto, Array]] = {}

    def lend(self, proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """A copy of the proto that only describes its large weights, and these weights by name; the proto itself where
        large weights are few."""
        large = {tensor.name for tensor in proto.graph.initializer if _is_lendable(tensor)}
        sizes = (prod(t.dims) * DType(t.data_type).bits // 8 for t in proto.graph.initializer if t.name in large)
        if sum(sizes) < WORTH:
            return proto, {}
        slim, lent = onnx.ModelProto(), dict[str, Array]()
        for part, value in proto.ListFields():
            if part.name != "graph":
                _put(slim, part.name, value)
        for part, value in proto.graph.ListFields():
            if part.name != "initializer":
                _put(slim.graph, part.name, value)
        for tensor in proto.graph.initializer:
            if tensor.name not in large:
                slim.graph.initializer.add().CopyFrom(tensor)
                continue
            bare = slim.graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            lent[tensor.name] = array = self._kept(tensor)
            describe_lent(bare, array.nbytes)
        return slim, lent

    def _kept(self, tensor: onnx.TensorProto) -> Array:
        named = self._named.get(tensor.name)
        if named is not None and named[0] == tensor:  # compares in place: reading the data would copy it
            return named[1]
        array = self._equal(np.frombuffer(tensor.raw_data, DType(tensor.data_type).numpy).reshape(tuple(tensor.dims)))
        self._named.setdefault(tensor.name, (tensor, array))
        return array

    def adopt(self, lent: Mapping[str, Array]) -> dict[str, Array]:
        """The weights, each replaced by the pool's array of equal content."""
        return {name: self._equal(array) for name, array in lent.items()}

    def _equal(self, array: Array) -> Array:
        data = _bytes_of(array)
        key = (array.dtype.str, array.shape, data[:: max(data.size // _SAMPLED, 1)].tobytes())
        alike = self._known.setdefault(key, [])
        for known in alike:
            if known is array or _has_bytes(_bytes_of(known), data):
                return known
        alike.append(array)
        return array


def _bytes_of(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


def _has_bytes(a: Array, b: Array) -> bool:
    return all(np.array_equal(a[at : at + _CHUNK], b[at : at + _CHUNK]) for at in range(0, a.size, _CHUNK))


def _is_lendable(tensor: onnx.TensorProto) -> bool:
    in_proto = tensor.HasField("raw_data") and tensor.data_location != onnx.TensorProto.EXTERNAL
    return in_proto and tensor.data_type in LENDABLE and prod(tensor.dims) > ELEMENTS


def _put(message: onnx.ModelProto | onnx.GraphProto, name: str, value: object) -> None:
    if isinstance(value, (str, bytes, int)):
        setattr(message, name, value)
    else:
        getattr(message, name).MergeFrom(value)
