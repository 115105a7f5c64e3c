"""Integers for real numbers: grids, rounding, equalisation, scales a channel. Arrays in, arrays out."""
