"""Loops of `kernels.pooling`."""
