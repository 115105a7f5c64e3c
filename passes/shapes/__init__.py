"""Sizes: what is computed from shapes, which sizes are equal, what operators demand of them, what a caller fixes."""

from .arithmetic import resolve_shapes
from .demands import infer_demands
from .legalise import give_range_scalars
from .names import name_sizes

__all__ = ["give_range_scalars", "infer_demands", "name_sizes", "resolve_shapes"]
