"""Numerics of quantization: grids, rounding, equalization, scales a channel. Arrays in, arrays out."""
