"""Loops over the weights of a model while it is quantized."""
