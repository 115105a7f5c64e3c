"""The recommendation of a mode: each plausible mode is run, measured and judged, and one is chosen."""

from .data import Mode, Recommendation
from .trial import recommend

__all__ = ["Mode", "Recommendation", "recommend"]
