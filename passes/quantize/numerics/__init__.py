"""Integers for real numbers: grids, rounding, second moments, equalisation, scales a channel."""
