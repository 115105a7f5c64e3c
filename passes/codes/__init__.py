"""Models that are quantized already: operators move from floats to their integer codes, or to faster integer forms."""

from .few_channels import widen_channels
from .move import move_codes
from .operators import use_integer_operators
from .requantize import drop_requantization
from .weights import read_weights

__all__ = ["drop_requantization", "move_codes", "read_weights", "use_integer_operators", "widen_channels"]
