"""The quantized files, and the language model, that the runtime's tests share."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnxruntime import quantization

import graphopt
from tests.runtime.forms import FORMS, Reader, make_cnn
from tests.runtime.language import make_language_model, on_kernels


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    onnx.save(make_cnn(), folder / "float.onnx")
    paths = {"float": folder / "float.onnx"}
    for form, options in FORMS.items():
        paths[form] = folder / f"{form}.onnx"
        settings = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
        quantization.quantize_static(paths["float"], paths[form], Reader(), **{**settings, **options})
    dynamic = folder / "dynamic.onnx"
    quantization.quantize_dynamic(paths["float"], dynamic, op_types_to_quantize=["Gemm", "MatMul"])
    return {**paths, "dynamic": dynamic}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """A language model, for modules that make no model of their own."""
    return make_language_model()


@pytest.fixture(scope="module")
def session(model: onnx.ModelProto) -> graphopt.Session:
    """The model on kernels."""
    return on_kernels(model)
