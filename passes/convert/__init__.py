"""Other spellings of the same computation: a later operator set, operators that a runtime is fast at."""

from .caches import raise_opset
from .opset import check_convertible, convert_opset
from .roots import spell_powers

__all__ = ["check_convertible", "convert_opset", "raise_opset", "spell_powers"]
