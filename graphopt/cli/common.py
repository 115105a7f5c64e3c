"""What all commands share: the consoles, kinds of arguments, and texts read as values."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console

from ..errors import InputError, OptionError

if TYPE_CHECKING:
    from rich.table import Table

    from ..measure import Metric

out = Console()
err = Console(stderr=True)

Model = Annotated[Path, typer.Argument(help="an ONNX file", show_default=False)]
Names = Annotated[Optional[str], typer.Option(help="comma-separated names")]  # noqa: UP045 - typer reads it at run time


_PIPED = 4096
"""Columns where nobody looks: names are whole in what is piped on."""


def print_whole(table: Table) -> None:
    """Print a table whose names are not cut where the output goes to a file or another program."""
    (out if out.is_terminal else Console(width=_PIPED)).print(table)


def split(names: str | None) -> list[str] | None:
    """The names in a text, None for none."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def shapes_of(texts: list[str]) -> dict[str, tuple[int | None, ...]]:
    """The sizes of inputs, each written as `x:1,3,224,224`. InputError."""
    shapes: dict[str, tuple[int | None, ...]] = {}
    for text in texts:
        name, colon, sizes = text.rpartition(":")
        try:
            shape = tuple(None if d.strip() in ("?", "-1") else int(d) for d in sizes.split(",") if d.strip())
        except ValueError:
            shape = ()
        if not colon or not name or (not shape and sizes.strip()):
            raise InputError(f"--input-shape {text!r}: write it as name:1,3,224,224")
        shapes[name] = shape
    return shapes


def dims_of(texts: list[str]) -> dict[str, int]:
    """Sizes by name, each written as `batch=1`. InputError."""
    sizes: dict[str, int] = {}
    for text in texts:
        name, equals, size = text.rpartition("=")
        if not equals or not name or not size.strip().isdecimal():
            raise InputError(f"--dim {text!r}: write it as batch=1")
        sizes[name] = int(size)
    return sizes


def function_of(text: str) -> Metric:
    """The function that `module:function` names. OptionError."""
    from importlib import import_module

    module, colon, name = text.partition(":")
    if not colon:
        raise OptionError(f"--metric {text!r}: write it as module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        metric: Metric = getattr(import_module(module), name)
        return metric
    except (ImportError, AttributeError) as error:
        raise OptionError(f"--metric {text!r}: {error}") from error
    finally:
        sys.path.pop(0)
