"""Structured pruning: whole channels go, and what remains is recovered."""

from .options import IMPORTANCES, Prune, check_prune
from .stage import prune

__all__ = ["IMPORTANCES", "Prune", "check_prune", "prune"]
