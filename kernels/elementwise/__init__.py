"""One element at a time: quantize and dequantize, tables of 256 entries, arithmetic of two tensors."""
