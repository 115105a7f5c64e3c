"""Numba functions over raw addresses: the bodies of steps. Imported only to compile; a warm process never does."""
