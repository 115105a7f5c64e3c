"""Structured pruning: whole channels go, and what remains is recovered."""

from __future__ import annotations

from typing import Any

from ...errors import OptionError
from ...ir import Model
from ...stages import Context, StageReport

__all__ = ["check_prune", "prune"]


def check_prune(options: Any) -> Any:
    """The options of `prune=`, checked before any work is done. OptionError."""
    raise OptionError("prune= is not available yet in this version")


def prune(model: Model, options: Any, context: Context) -> tuple[Model, StageReport]:
    """Remove channels as `options` say."""
    raise OptionError("prune= is not available yet in this version")
