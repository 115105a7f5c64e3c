"""Execution: regions and onnxruntime segments at run time; their memory, threads and borders."""
