"""Make a failing model small enough to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..ir import Model
from ..pipeline.shrink import name_values
from ..pipeline.shrink import shrink as shrink_nodes

if TYPE_CHECKING:
    import onnx


def shrink(model: Any, fails: Callable[[onnx.ModelProto], bool]) -> onnx.ModelProto:
    """A piece of a model on which `fails` is still true, minimal in that no single node of it can go.

    model: path, bytes, `onnx.ModelProto` or `onnx_ir.Model`. What the piece reads from the rest of the model becomes an
    input. ValueError if the whole model does not fail.
    """
    from .. import onnx_io

    def holds(piece: Model) -> bool:
        try:
            proto = onnx_io.to_proto(piece)
        except Exception:  # a piece that cannot be written shows nothing
            return False
        return fails(proto)

    lifted = onnx_io.load(model)
    name_values(lifted)
    if not holds(lifted):
        raise ValueError("the model does not fail")
    return onnx_io.to_proto(shrink_nodes(lifted, holds))
