"""How tensors are described to kernels: quantization, sliding windows over images, broadcasting."""
