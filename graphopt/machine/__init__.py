"""This machine: its CPU, its files, onnxruntime sessions on it, and the measurements made here."""
