"""Layers refitted to their quantized inputs, in the order of execution: in closed form, then by learned rounding."""
