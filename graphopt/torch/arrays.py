"""Conversions between torch tensors, numpy arrays and IR constants, for all element types that torch supports."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from ..errors import Declined
from ..ir import Array, Constant, DType

DTYPES: dict[DType, Any] = {
    DType.FLOAT: torch.float32, DType.DOUBLE: torch.float64, DType.FLOAT16: torch.float16, DType.BOOL: torch.bool,
    DType.BFLOAT16: torch.bfloat16, DType.INT8: torch.int8, DType.INT16: torch.int16, DType.INT32: torch.int32,
    DType.INT64: torch.int64, DType.UINT8: torch.uint8, DType.UINT16: torch.uint16, DType.UINT32: torch.uint32,
    DType.UINT64: torch.uint64, DType.COMPLEX64: torch.complex64, DType.COMPLEX128: torch.complex128,
    DType.INT4: torch.int8, DType.UINT4: torch.uint8,
}  # fmt: skip
"""Torch's element types; integers of 4 bits are stored in 8."""


def dtype_of(number: int) -> Any:
    """The element type of an ONNX number. Declined where torch has none."""
    kind = DType(number)
    if kind not in DTYPES:
        raise Declined(f"torch has no element type {kind.short}")
    return DTYPES[kind]


def to_tensor(constant: Constant) -> Any:
    """A constant as a tensor with its own memory."""
    array = np.array(constant.array())
    if array.dtype == object or array.dtype.kind in "US":
        return array  # strings pass through unchanged
    wanted = dtype_of(constant.type.dtype)
    if wanted is torch.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if array.dtype.name in ("int4", "uint4"):
        array = array.astype(np.int8 if array.dtype.name == "int4" else np.uint8)
    return torch.from_numpy(array)


def to_array(tensor: Any) -> Array:
    """A tensor as an array; a sequence as a list of arrays."""
    if isinstance(tensor, list):
        return [to_array(t) for t in tensor]  # type: ignore[return-value]
    if not isinstance(tensor, torch.Tensor):
        return tensor  # type: ignore[no-any-return]
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        return np.asarray(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(tensor.numpy())
