"""Raise a model's opset as quantized forms require: per-channel DequantizeLinear came with opset 13."""

from __future__ import annotations

import numpy as np

from ....compress.context import StageContext
from ....errors import Declined, ModelError, OptionError
from ....ir import Model, clone_model
from ....measure import ort_session
from ....onnx_io import load, to_proto
from ....rewrite import Context
from ...convert import check_kernels, convert_opset

NEEDED = 13  # the opset that introduced the axis of QuantizeLinear and DequantizeLinear


def upgraded(model: Model, context: StageContext, needed: int = NEEDED) -> Model:
    """The model at opset `needed` or later. Declined where results on the first sample would change, or no conversion
    exists."""
    if model.opset >= needed:
        return model
    try:
        raised = clone_model(model)
        convert_opset(needed).run(raised.graph, Context(context.target))
    except OptionError as error:
        raised = _converted(model, needed, str(error))
    try:
        check_kernels(model, raised)
    except Declined as declined:
        raise Declined(f"left float: opset {model.opset} cannot be raised: {declined.reason}") from declined
    feed = context.calibration.first(1)[0]
    before, after = (ort_session(m, threads=0).run(None, feed) for m in (model, raised))
    for a, b in zip(before, after):
        if np.asarray(a).shape != np.asarray(b).shape or not _close(np.asarray(a), np.asarray(b)):
            raise Declined(f"left float: opset {model.opset} raised to {needed} changes results")
    return raised


def _converted(model: Model, needed: int, reason: str) -> Model:
    """The model at opset `needed` by ONNX's own converter, which supports operators that ours does not. Declined, with
    our reason, where that fails, too."""
    import onnx.version_converter

    try:
        converted = onnx.version_converter.convert_version(to_proto(model), needed)
        converted.ir_version = max(converted.ir_version, 10 if needed >= 21 else 7)
        return load(converted.SerializeToString(), folder=model.folder)
    except (RuntimeError, ValueError, ModelError) as error:
        raise Declined(f"left float: opset {model.opset} cannot be raised: {reason}") from error


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    scale = float(np.max(np.abs(a[np.isfinite(a)]), initial=0.0))
    return bool(np.allclose(a, b, rtol=1e-4, atol=1e-4 * scale, equal_nan=True))
