"""Every rewrite, one file each; this file is the schedule: the only place where order is written."""

from __future__ import annotations

if not __name__.startswith("graphopt."):
    raise ImportError("import graphopt.passes, not passes: the top-level folder is a second copy of it")

from ..pipeline.passes import Pass

SCHEDULE: tuple[Pass, ...] = ()
"""What `optimize` runs, in order."""

ON_DEMAND: tuple[Pass, ...] = ()
"""Passes that run only when named."""
