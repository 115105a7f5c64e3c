"""What runs on kernels and what in onnxruntime: convex regions, and what was measured of them."""
