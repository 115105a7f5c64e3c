"""Synthesis of feeds on which a model runs: the semantics of its inputs, sizes, values, and a search over these."""

from .search import Sample, find_samples, synthesise, synthesised
from .semantics import InputFacts, read_facts

__all__ = ["InputFacts", "Sample", "find_samples", "read_facts", "synthesise", "synthesised"]
