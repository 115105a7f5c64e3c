"""Placement: convex regions on kernels, the rest in onnxruntime, by predicted or measured times."""
