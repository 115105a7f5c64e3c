"""Sensitivities from backward passes: their equation on a linear model, and their order against measured losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy.stats import spearmanr

from graphopt.errors import InputError
from graphopt.gradient import fisher, predicted_losses

from .checking import session
from .test_training import linear

MODELS = Path(__file__).parents[2] / "models"
BITS = 4


def test_a_linear_model() -> None:
    """y = x w + b: F of w[i, j] is E x_i², of b 1."""
    rng = np.random.default_rng(0)
    proto = linear(w=rng.standard_normal((4, 3)).astype(np.float32), b=np.ones(3, np.float32))
    x = rng.standard_normal((16, 1, 4)).astype(np.float32)
    found = fisher(proto, [{"x": row} for row in x])
    assert np.allclose(found["b"], 1)
    assert np.allclose(found["w"], np.repeat(np.mean(x[:, 0] ** 2, 0)[:, None], 3, 1), rtol=1e-5)
    with pytest.raises(InputError, match="there are none"):
        fisher(proto, [])


def test_the_order_of_layers_is_that_of_measured_losses() -> None:
    proto = onnx.load(MODELS / "fashion_cnn.onnx")
    images = np.load(MODELS / "fashion_calibration.npz")["image"][:24]
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer if len(t.dims) > 1}
    before = session(proto).run(None, {"image": images})[0]
    changes, measured = {}, []
    for name, w in weights.items():
        scale = np.abs(w).max(axis=tuple(range(1, w.ndim)), keepdims=True) / (2 ** (BITS - 1) - 1)
        change = (np.round(w / scale) * scale - w).astype(np.float32)
        changes[name] = change
        moved = onnx.ModelProto.FromString(proto.SerializeToString())
        tensor = next(t for t in moved.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(w + change, name))
        after = session(moved).run(None, {"image": images})[0]
        measured.append(float(np.square(after - before).sum(1).mean()))
    predicted = predicted_losses(proto, [{"image": image[None]} for image in images], changes)
    assert len(measured) > 10
    assert spearmanr(list(predicted.values()), measured).statistic >= 0.9
