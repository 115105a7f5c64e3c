"""Output of the command line: consoles, verbosity, machine-readable results, the log."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

WIDE = 4096
"""Columns of a console that is no terminal, as in `graphopt.report.tables`, which is not imported for `--help`."""


def _console(*, stderr: bool = False) -> Console:
    """A console; without a terminal, lines do not wrap and names are not cut."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDE)


out, err = _console(), _console(stderr=True)


@dataclass(slots=True)
class Manner:
    """Verbosity of the current command: with `verbose` every column and the log, with `quiet` errors alone."""

    verbose: bool = False
    quiet: bool = False


manner = Manner()


def settle(*, verbose: bool, quiet: bool) -> None:
    """Begin a command: its output goes to stdout, unless it is quiet."""
    manner.verbose, manner.quiet = verbose and not quiet, quiet
    out.quiet, out.stderr = quiet, False
    logger = logging.getLogger("graphopt")
    logger.removeHandler(_HANDLER)
    if manner.verbose:
        logger.addHandler(_HANDLER)
    logger.setLevel(logging.INFO if manner.verbose else logging.NOTSET)


def leave_stdout() -> None:
    """Redirect output for people to stderr: stdout carries the result."""
    out.stderr = True


def note(text: str) -> None:
    """Print a note on stderr beside the result, such as an option without effect."""
    if not manner.quiet:
        err.print(f"graphopt: note: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def write_json(data: Mapping[str, Any] | list[Any]) -> None:
    """Write a result as JSON to stdout, even for a quiet command."""
    sys.stdout.write(json.dumps(data, indent=2, default=_plain, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


class _OnStderr(logging.Handler):
    """Log records as dim lines on stderr, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        text = f"{record.levelname.lower()}: {self.format(record)}"
        err.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


_HANDLER = _OnStderr()
