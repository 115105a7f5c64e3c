"""This machine: its CPU, its files, onnxruntime sessions on it, measurements made here, modules loaded at first use."""
