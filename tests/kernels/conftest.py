"""Kernels compile when first called, so a deadline per example would only measure the compiler."""

from hypothesis import settings

settings.register_profile("kernels", deadline=None)
settings.load_profile("kernels")
