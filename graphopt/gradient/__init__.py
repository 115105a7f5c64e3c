"""Gradients of ONNX models: reverse mode as a transformation of the IR, without a training framework; and training."""

from .differentiate import gradient_model
from .losses import KL, MSE, CrossEntropy
from .optimizers import SGD, Adam, AdamW
from .reverse import gradients
from .sensitivity import fisher, predicted_losses, slopes
from .tensor import Tensor, Writer
from .trainer import Trainer
from .training import training_step

__all__ = [
    "KL", "MSE", "SGD", "Adam", "AdamW", "CrossEntropy", "Tensor", "Trainer", "Writer", "fisher", "gradient_model",
    "gradients", "predicted_losses", "slopes", "training_step",
]  # fmt: skip
