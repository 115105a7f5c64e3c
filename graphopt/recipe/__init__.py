"""Recipes: a file with all decisions behind a result, to read, to edit by hand, and to reproduce the result."""

from .digests import data_digest, model_digest
from .recipe import MadeWith, Recipe
from .record import data_of, recorded

__all__ = ["MadeWith", "Recipe", "data_digest", "data_of", "model_digest", "recorded"]
