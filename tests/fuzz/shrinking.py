"""The few nodes on which the schedule fails as it does on a whole graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from graphopt.pipeline import Pass
from graphopt.testing import shrink

from .trial import attempt


def smallest(
    model: onnx.ModelProto, schedule: Sequence[Pass], target: str = "portable", seed: int = 0
) -> onnx.ModelProto:
    """A piece of the model on which the schedule ends as it does on the whole; the model where no piece shows it."""
    status = attempt(model, schedule, target, seed).status
    try:
        return shrink(model, lambda piece: attempt(piece, schedule, target, seed).status == status)
    except ValueError:
        return model
