"""Structured pruning: whole channels are removed, and the remaining weights refitted."""

from .exchange import affordable
from .options import IMPORTANCES, Prune, check_prune
from .stage import prune

__all__ = ["IMPORTANCES", "Prune", "affordable", "check_prune", "prune"]
