"""Runs of onnxruntime with failures as one-line errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError, one_line


def run_session(session: Any, names: Sequence[str] | None, feeds: Mapping[str, Any], what: str) -> list[Any]:
    """The results of a session. InputError, beginning with `what` is computed, where the run fails."""
    try:
        return list(session.run(names, dict(feeds)))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"distil: {what} cannot be computed: {one_line(error)}") from error
