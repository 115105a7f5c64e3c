"""Structured pruning: whole channels are removed, and the remaining weights refitted."""

from .options import IMPORTANCES, Prune, check_prune
from .stage import prune

__all__ = ["IMPORTANCES", "Prune", "check_prune", "prune"]
