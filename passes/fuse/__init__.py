"""Chains of small operators that are one larger operator: one file a family."""

from __future__ import annotations

from .operators import fuse_operators

__all__ = ["fuse_operators"]
