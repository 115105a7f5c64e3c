"""The inputs and outputs of a model: name, element type, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import onnx


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """An input or output of a model. `dims` is None when the rank is unknown; `elem` is 0 for all but tensors."""

    name: str
    elem: int
    dims: tuple[int | str | None, ...] | None
    type: onnx.TypeProto

    def __str__(self) -> str:
        shape = "*" if self.dims is None else ",".join("?" if d is None else str(d) for d in self.dims)
        kind = onnx.TensorProto.DataType.Name(self.elem).lower() if self.elem else str(self.type.WhichOneof("value"))
        return f"{self.name}: {kind}[{shape}]"

    @classmethod
    def of(cls, proto: onnx.ValueInfoProto) -> ValueInfo:
        """Read the protobuf form."""
        if proto.type.WhichOneof("value") != "tensor_type":
            return cls(proto.name, 0, None, proto.type)
        tensor = proto.type.tensor_type
        dims: tuple[int | str | None, ...] | None = None
        if tensor.HasField("shape"):
            dims = tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim)
        return cls(proto.name, tensor.elem_type, dims, proto.type)

    def with_sizes(self, sizes: Mapping[int, int]) -> ValueInfo:
        """This ValueInfo with `sizes`, by axis, in place of open ones."""
        if not sizes or self.dims is None:
            return self
        return replace(self, dims=tuple(sizes.get(axis, dim) for axis, dim in enumerate(self.dims)))

    def has_sizes_of(self, shape: tuple[int, ...]) -> bool:
        """Whether all fixed sizes equal those of `shape`; ranks are not compared."""
        return self.dims is None or not any(isinstance(d, int) and d > 0 and d != n for d, n in zip(self.dims, shape))


class Signature(Protocol):
    """The part of a model's interface that feeds need: its inputs."""

    @property
    def inputs(self) -> tuple[ValueInfo, ...]:
        """The inputs that must be fed, in order."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The signature of a model of the IR, read without emitting the model."""

    inputs: tuple[ValueInfo, ...]
