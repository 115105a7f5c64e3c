"""Loops of `kernels.products`."""
