"""Region IR, continued: functions of one float32 element."""

from __future__ import annotations

from dataclasses import dataclass

from ....kernels.elementwise.functions import FloatFunctionName
from ..traits import FloatOperation


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FloatFunction(FloatOperation):
    """y = function(x; a, b) of each float32 element, as `kernels.elementwise.functions` defines the functions."""

    function: FloatFunctionName
    a: float = 0.0
    b: float = 0.0
