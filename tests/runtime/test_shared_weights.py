"""Layers that share weights read the same memory on kernels, also from a plan on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx.numpy_helper import from_array
from onnxruntime import quantization

from graphopt.kernels import Step
from graphopt.kernels.core.linked_table import LinkedTable
from graphopt.runtime import Session

WIDE = 96


def _weights(session: Session) -> list[int]:
    """The addresses of all constant arrays of at least a page, table by table."""
    (region,) = session.regions
    executable = region.executable(((5, WIDE),))
    assert executable is not None
    return [a.ctypes.data for row in executable.steps for a in _arrays(row.step) if a.nbytes >= WIDE * WIDE]


def _arrays(step: Step) -> list[np.ndarray]:
    found = [value for value in step.arguments.values() if isinstance(value, np.ndarray)]
    return found + [a for value in step.arguments.values() if isinstance(value, LinkedTable) for a in value.arrays]


@pytest.mark.parametrize(("second", "different"), [("a", 1), ("b", 2)])
def test_layers_with_the_same_weights_read_them_from_one_place(
    second: str, different: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> net (float[N,{WIDE}] x) => (float[N,{WIDE}] y)
        {{ p = MatMul(x, a)  q = Relu(p)  r = MatMul(q, {second})  y = Relu(r) }}"""
    )
    arrays = {name: rng.standard_normal((WIDE, WIDE)).astype(np.float32) for name in "ab"}
    arrays["b"][:-1] = arrays["a"][:-1]  # alike but for the last row
    model.graph.initializer.extend(from_array(array, name) for name, array in arrays.items() if name in ("a", second))
    path = tmp_path / "quantized.onnx"
    onnx.save(model, tmp_path / "float.onnx")
    quantization.quantize_dynamic(tmp_path / "float.onnx", path)
    feeds = {"x": rng.standard_normal((5, WIDE)).astype(np.float32)}
    want = Session(path, 1, kernels=False).run(None, feeds)[0]
    for _ in range(2):  # compiled, and read from its plan
        session = Session(path, 1, kernels=True)
        np.testing.assert_allclose(session.run(None, feeds)[0], want, rtol=1e-5, atol=1e-4)
        held = _weights(session)
        assert len(held) == 2 and len(set(held)) == different
