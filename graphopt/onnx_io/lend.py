"""Emission of models for sessions in this process: weights stay in memory, outside of the proto."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx

from ..ir import Array, Constant, DType
from .parts.tensors import describe_external, external_source, write_tensor

LEAST = 1 << 10
"""Bytes of the smallest tensor that is lent; below are shapes and scalars, which shape inference reads."""
_LOCATION = "lent"
_LENT = frozenset((DType.FLOAT, DType.FLOAT16, DType.DOUBLE, DType.INT8, DType.UINT8))


class Lender:
    """The `store` of an `Emitter` that keeps large tensors, by name, in `lent`; the proto only describes them.

    A proto with its weights is copied four times on its way into a session; each copy costs more than its bytes, since
    the system maps fresh memory page by page.
    """

    def __init__(self) -> None:
        self.lent: dict[str, Array] = {}

    def store(self, proto: onnx.TensorProto, constant: Constant, name: str) -> None:
        """Fill the proto of an initializer."""
        if constant.nbytes < LEAST or constant.dtype not in _LENT or external_source(constant) is not None:
            write_tensor(proto, constant, name)
            return
        describe_external(proto, constant, name)
        for key, value in (("location", _LOCATION), ("length", constant.nbytes)):
            proto.external_data.add(key=key, value=str(value))
        self.lent[name] = np.ascontiguousarray(constant.array())


_WORTH = 1 << 20
"""Bytes of large tensors from which a proto's weights are taken out: below, copies cost less than what is saved."""
_ELEMENTS = 4096
"""Elements of the largest tensor that stays in a proto: shapes and bounds, which are read there."""
_SAMPLED = 64
"""Bytes, spread over a tensor, that tell it from most others of its size."""


class WeightPool:
    """Weights by content: one array stands for all equal ones, of one model or of several."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, tuple[int, ...], bytes], list[tuple[bytes, Array]]] = {}
        self._named: dict[str, tuple[onnx.TensorProto, Array]] = {}

    def lend(self, proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """A copy of the proto that only describes its large weights, and these by name; the proto itself where it has
        few."""
        large = {tensor.name for tensor in proto.graph.initializer if _is_lendable(tensor)}
        sizes = (prod(t.dims) * DType(t.data_type).bits // 8 for t in proto.graph.initializer if t.name in large)
        if sum(sizes) < _WORTH:
            return proto, {}
        slim, lent = onnx.ModelProto(), dict[str, Array]()
        for field, value in proto.ListFields():
            if field.name != "graph":
                _put(slim, field.name, value)
        for field, value in proto.graph.ListFields():
            if field.name != "initializer":
                _put(slim.graph, field.name, value)
        for tensor in proto.graph.initializer:
            if tensor.name not in large:
                slim.graph.initializer.add().CopyFrom(tensor)
                continue
            bare = slim.graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
            bare.data_location = onnx.TensorProto.EXTERNAL
            lent[tensor.name] = array = self._kept(tensor)
            for key, value in (("location", _LOCATION), ("length", array.nbytes)):
                bare.external_data.add(key=key, value=str(value))
        return slim, lent

    def _kept(self, tensor: onnx.TensorProto) -> Array:
        named = self._named.get(tensor.name)
        if named is not None and named[0] == tensor:  # compared where they lie: to read the data would copy it
            return named[1]
        array = self._equal(tensor)
        self._named.setdefault(tensor.name, (tensor, array))
        return array

    def _equal(self, tensor: onnx.TensorProto) -> Array:
        data, shape = tensor.raw_data, tuple(tensor.dims)
        alike = self._known.setdefault((tensor.data_type, shape, data[:: max(len(data) // _SAMPLED, 1)]), [])
        for known, array in alike:
            if known == data:
                return array
        array = np.frombuffer(data, DType(tensor.data_type).numpy).reshape(shape)
        alike.append((data, array))
        return array


def _is_lendable(tensor: onnx.TensorProto) -> bool:
    in_proto = tensor.HasField("raw_data") and tensor.data_location != onnx.TensorProto.EXTERNAL
    return in_proto and tensor.data_type in _LENT and prod(tensor.dims) > _ELEMENTS


def _put(message: onnx.ModelProto | onnx.GraphProto, name: str, value: object) -> None:
    if isinstance(value, (str, bytes, int)):
        setattr(message, name, value)
    else:
        getattr(message, name).MergeFrom(value)


def with_lent(proto: onnx.ModelProto, lent: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of the proto with the lent tensors in it."""
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    for tensor in whole.graph.initializer:
        if tensor.name in lent and tensor.data_location == onnx.TensorProto.EXTERNAL:
            put_back(tensor, lent[tensor.name])
    return whole


def put_back(tensor: onnx.TensorProto, array: Array) -> None:
    """Let a tensor that was lent hold its elements again."""
    tensor.raw_data = array.tobytes()
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
