"""Chains of small operators become one larger operator: a file or a room for each family."""

from __future__ import annotations

from .attention import fuse_attention
from .onnxruntime import fuse_for_onnxruntime
from .operators import fuse_operators
from .products import merge_products

__all__ = ["fuse_attention", "fuse_for_onnxruntime", "fuse_operators", "merge_products"]
