"""Emission of models for sessions in this process: weights stay in memory, outside of the proto."""

from __future__ import annotations

from collections.abc import Mapping

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


def with_lent(proto: onnx.ModelProto, lent: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of the proto with the lent tensors in it."""
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    for tensor in whole.graph.initializer:
        if tensor.name in lent:
            tensor.raw_data = lent[tensor.name].tobytes()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return whole
