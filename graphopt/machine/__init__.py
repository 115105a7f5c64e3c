"""Services of this machine: CPU, files, memory, onnxruntime sessions, stored measurements, lazy imports."""
