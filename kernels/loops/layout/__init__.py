"""Loops of `kernels.layout`."""
