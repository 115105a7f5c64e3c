"""Loops of `kernels.elementwise`."""
