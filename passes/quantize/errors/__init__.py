"""Errors of rounding in a model's results: of single units, predicted or measured, of inputs, and by elements."""
