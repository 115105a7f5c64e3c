"""The operators that torch runs, a file a family: functions of (call, *operands), None for a missing operand.

Operators of opset 18 and later, as `graphopt.gradient.prepare` writes models; composites are expanded before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import (
    arithmetic,
    control,
    elementwise,
    fourier,
    indexing,
    layers,
    movement,
    quantized,
    recurrent,
    reductions,
    resizing,
)

OPERATORS: dict[str, Callable[..., Any]] = {
    **elementwise.OPERATORS, **arithmetic.OPERATORS, **reductions.OPERATORS, **movement.OPERATORS,
    **indexing.OPERATORS, **layers.OPERATORS, **resizing.OPERATORS, **recurrent.OPERATORS, **quantized.OPERATORS,
    **control.OPERATORS, **fourier.OPERATORS,
}  # fmt: skip
"""The function of each operator: the only table of supported operators."""

__all__ = ["OPERATORS"]
