"""Conversions to equivalent operators: of a later operator set, or faster in a runtime."""

from .caches import raise_opset
from .opset import check_convertible, check_kernels, convert_opset
from .roots import spell_powers
from .shared_caches import share_caches

__all__ = ["check_convertible", "check_kernels", "convert_opset", "raise_opset", "share_caches", "spell_powers"]
