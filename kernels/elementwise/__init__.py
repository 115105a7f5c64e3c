"""Elementwise kernels: quantize and dequantize, tables of 256 entries, arithmetic of one or two tensors."""
