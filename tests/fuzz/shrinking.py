"""Shrink a failing graph to the few nodes that fail alike."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from graphopt.testing import shrink

from .trial import Trial


def smallest(model: onnx.ModelProto, attempt: Callable[[onnx.ModelProto], Trial]) -> onnx.ModelProto:
    """The smallest part of the model whose trial ends alike; the model itself if there is none."""
    status = attempt(model).status
    try:
        return shrink(model, lambda piece: attempt(piece).status == status)
    except ValueError:
        return model
