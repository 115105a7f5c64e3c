"""Softmax, LayerNormalization, LocalResponseNormalization."""
