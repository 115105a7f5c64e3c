"""Placement: convex regions on kernels, the rest in onnxruntime, by what was measured on this machine."""
