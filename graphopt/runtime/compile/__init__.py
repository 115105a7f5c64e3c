"""Compilation of a region, at known shapes, to one program of kernels over one arena, with packed weights."""
