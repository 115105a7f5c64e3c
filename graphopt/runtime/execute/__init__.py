"""Execution of regions and onnxruntime segments: their memory, threads and borders."""
