"""Helpers for tests: an assertion that models are equivalent, random models for passes, shrinking of failures."""

from .equivalent import assert_equivalent
from .shrinking import shrink
from .strategy import graphs, random_graph

__all__ = ["assert_equivalent", "graphs", "random_graph", "shrink"]
