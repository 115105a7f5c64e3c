"""Attention, in the spellings of exporters, as one operator."""

from .fuse import fuse_attention, projections_into_attention

__all__ = ["fuse_attention", "projections_into_attention"]
