"""What the command line says, and where: consoles, how much is said, machine-readable results, the log."""

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
    """A console; one that is no terminal breaks no line and cuts no name."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDE)


out, err = _console(), _console(stderr=True)


@dataclass(slots=True)
class Manner:
    """How much the current command says: with `verbose` every column and the log, with `quiet` nothing but errors."""

    verbose: bool = False
    quiet: bool = False


manner = Manner()


def settle(*, verbose: bool, quiet: bool) -> None:
    """Begin a command: what it says goes to stdout, unless it is quiet."""
    manner.verbose, manner.quiet = verbose and not quiet, quiet
    out.quiet, out.stderr = quiet, False
    logger = logging.getLogger("graphopt")
    logger.removeHandler(_HANDLER)
    if manner.verbose:
        logger.addHandler(_HANDLER)
    logger.setLevel(logging.INFO if manner.verbose else logging.NOTSET)


def leave_stdout() -> None:
    """Say on stderr what is meant for people: stdout carries the result."""
    out.stderr = True


def note(text: str) -> None:
    """A line on stderr beside the result, such as an option that changes nothing."""
    if not manner.quiet:
        err.print(f"graphopt: note: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def write_json(data: Mapping[str, Any] | list[Any]) -> None:
    """A result on stdout for machines, also of a quiet command."""
    sys.stdout.write(json.dumps(data, indent=2, default=_plain, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


class _OnStderr(logging.Handler):
    """Records as dim lines on stderr, above a bar of progress."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        text = f"{record.levelname.lower()}: {self.format(record)}"
        err.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


_HANDLER = _OnStderr()
