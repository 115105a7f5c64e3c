"""Exact integer Winograd convolution of 3×3 kernels: algebra, block sizes, the choice against direct convolution."""
