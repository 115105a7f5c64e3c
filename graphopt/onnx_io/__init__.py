"""Lifting of ONNX files into the IR, emission and saving. onnx and onnx-ir are imported at first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..machine.lazy import names_in

if TYPE_CHECKING:
    from .checker import check
    from .emit import to_onnx, to_proto
    from .inference import infer_types
    from .lend import Emission, emission, lifted_from
    from .lift import load
    from .saving import lies_outside, save
    from .size import external_bytes, file_bytes
    from .weights import is_large, weight_bytes

__all__ = [
    "Emission", "check", "emission", "external_bytes", "file_bytes", "infer_types", "is_large", "lies_outside",
    "lifted_from", "load", "save", "to_onnx", "to_proto",
    "weight_bytes",
]  # fmt: skip

# No module has the name of a function in it: importing a submodule sets the attribute of that name.
_HOMES = {
    "external_bytes": "size", "file_bytes": "size", "Emission": "lend", "emission": "lend", "lifted_from": "lend",
    "check": "checker", "infer_types": "inference", "load": "lift", "save": "saving",
    "lies_outside": "saving", "is_large": "weights", "weight_bytes": "weights",
    "to_onnx": "emit", "to_proto": "emit",
}  # fmt: skip

__getattr__ = names_in(__name__, _HOMES)
