"""Sizes of axes: computed, found equal, implied by the operators that read them, or fixed by the caller."""

from .arithmetic import resolve_shapes
from .demands import infer_demands
from .legalise import give_range_scalars
from .names import name_sizes

__all__ = ["give_range_scalars", "infer_demands", "name_sizes", "resolve_shapes"]
