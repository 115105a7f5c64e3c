"""This machine: its CPU, its files, onnxruntime on it, and what was measured here."""
