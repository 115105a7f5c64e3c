"""The search for recipes: decisions a layer, predicted, built and measured, until a front of the best stands."""

from .front import Front
from .loop import search
from .point import Point

__all__ = ["Front", "Point", "search"]
