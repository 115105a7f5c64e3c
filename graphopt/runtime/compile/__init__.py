"""Compilation: a region at known shapes becomes one program of kernels over one arena, its weights packed."""
