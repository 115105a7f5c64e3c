"""Descriptions of tensors for kernels: quantization, sliding windows over images, broadcasting."""
