"""Passes of other libraries as passes of ours: `onnx_ir` passes and `onnxscript.rewriter` rules."""

from __future__ import annotations

from typing import Any

from ..errors import OptionError
from .passes import Pass


def adapt(item: Any) -> Pass:
    """A Pass from what another library calls one; OptionError if it is nothing we know."""
    raise OptionError(
        f"{type(item).__name__} is not a pass: give a name, a Pass, a Rule, or a function registered as one"
    )
