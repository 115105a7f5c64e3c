"""Shrink a failing model to a readable size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..arguments import check_arguments
from ..ir import Model
from ..pipeline.shrink import name_values
from ..pipeline.shrink import shrink as shrink_nodes

if TYPE_CHECKING:
    import onnx

    from ..onnx_io.source import ModelSource


def shrink(model: ModelSource, fails: Callable[[onnx.ModelProto], bool]) -> onnx.ModelProto:
    """A piece of a model on which `fails` is still true, minimal in that no single node can be removed.

    model: path, bytes, `onnx.ModelProto` or `onnx_ir.Model`. Values that the piece reads from the rest of the model
    become inputs. ValueError if the whole model does not fail.
    """
    check_arguments(shrink, locals())
    from .. import onnx_io

    def holds(piece: Model) -> bool:
        try:
            proto = onnx_io.to_proto(piece)
        except Exception:  # a piece that cannot be emitted is no smaller example
            return False
        return fails(proto)

    lifted = onnx_io.load(model)
    name_values(lifted)
    if not holds(lifted):
        raise ValueError("the model does not fail")
    return onnx_io.to_proto(shrink_nodes(lifted, holds))
