"""Conversions to equivalent operators: of a later operator set, or faster in a runtime."""

from .caches import raise_opset
from .opset import check_convertible, convert_opset
from .roots import spell_powers

__all__ = ["check_convertible", "convert_opset", "raise_opset", "spell_powers"]
