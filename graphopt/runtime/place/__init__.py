"""Placement: convex regions on kernels, the rest in onnxruntime, by measurements on this machine."""
