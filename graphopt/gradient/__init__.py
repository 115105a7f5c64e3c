"""Gradients of ONNX models: reverse mode as a transformation of the IR, without a training framework."""

from .differentiate import gradient_model
from .reverse import gradients
from .tensor import Tensor, Writer

__all__ = ["Tensor", "Writer", "gradient_model", "gradients"]
