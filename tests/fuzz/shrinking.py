"""Make a failing model small enough to look at."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from graphopt import onnx_io
from graphopt.ir import Model
from graphopt.pipeline import Pass
from graphopt.pipeline.shrink import name_values, shrink

from .trial import attempt


def smallest(model: onnx.ModelProto, schedule: Sequence[Pass], target: str = "portable", seed: int = 0) -> Model:
    """A piece of the model on which the schedule fails as it does on the whole."""
    status = attempt(model, schedule, target, seed).status
    lifted = onnx_io.load(model)
    name_values(lifted)

    def holds(piece: Model) -> bool:
        try:
            proto = onnx_io.to_proto(piece)
        except Exception:  # a piece that cannot be written shows nothing
            return False
        return attempt(proto, schedule, target, seed).status == status

    return shrink(lifted, holds) if holds(lifted) else lifted
