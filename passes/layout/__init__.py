"""Operators that only move elements: joined, cancelled, or moved to cheaper places."""

from .batch_first import put_batch_first
from .hoist import hoist_over_split
from .parts import take_parts
from .reshapes import join_shape_changes
from .slices import flatten_concats, join_slices_and_pads, split_slices
from .transposes import cancel_transposes
from .windows import read_masks

__all__ = [
    "cancel_transposes", "flatten_concats", "hoist_over_split", "join_shape_changes", "join_slices_and_pads",
    "put_batch_first", "read_masks", "split_slices", "take_parts",
]  # fmt: skip
