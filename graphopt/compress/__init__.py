"""Lossy compression: the frame in which quantization, pruning and what follows run, are guarded and reported."""
