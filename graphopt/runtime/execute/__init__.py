"""Programs and onnxruntime segments at run time: memory, threads, borders."""
