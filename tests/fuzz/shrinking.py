"""Shrink a failing graph to the few nodes on which the schedule fails alike."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from graphopt.pipeline import Pass
from graphopt.testing import shrink

from .trial import attempt


def smallest(
    model: onnx.ModelProto, schedule: Sequence[Pass], target: str = "portable", seed: int = 0
) -> onnx.ModelProto:
    """The smallest part of the model on which the schedule fails alike; the model itself if there is none."""
    status = attempt(model, schedule, target, seed).status
    try:
        return shrink(model, lambda piece: attempt(piece, schedule, target, seed).status == status)
    except ValueError:
        return model
