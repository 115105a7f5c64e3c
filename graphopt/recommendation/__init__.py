"""The recommendation of a mode: each that may be worth it is made, measured and judged, and one is chosen."""

from .data import Mode, Recommendation
from .trial import recommend

__all__ = ["Mode", "Recommendation", "recommend"]
