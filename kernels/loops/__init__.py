"""Numba functions over raw addresses: the bodies of steps. Imported only to compile, never by a warm process."""
