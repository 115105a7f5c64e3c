"""Recipes: a file that says everything that decided a result, to read, to change by hand, and to make it again."""

from .digests import data_digest, model_digest
from .recipe import MadeWith, Recipe
from .record import data_of, recorded

__all__ = ["MadeWith", "Recipe", "data_digest", "data_of", "model_digest", "recorded"]
