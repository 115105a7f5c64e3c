"""Loops of `kernels.normalization`."""
