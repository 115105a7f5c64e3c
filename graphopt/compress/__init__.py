"""Lossy compression: the frame that runs, guards and reports quantization, pruning and other lossy stages."""
