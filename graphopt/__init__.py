"""graphopt: a compiler-style optimizer for ONNX models."""

__version__ = "0.1.0"
