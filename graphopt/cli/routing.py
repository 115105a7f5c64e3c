"""Routes a command line to a command: a model alone is optimized, options may come first, near misses are named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from ..errors import OptionError, did_you_mean
from .console import settle

USUAL = "optimize"
"""The command for a model without a command."""

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="every column of the tables, and a log on stderr")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print nothing but errors; the exit code tells")]


class Commands(TyperGroup):
    """The group of all commands, in which a model's name alone stands for optimising it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Find the command. OptionError for an unknown word."""
        return super().parse_args(ctx, routed(args, self.commands, strict=not ctx.resilient_parsing))


def routed(args: list[str], commands: Collection[str], *, strict: bool = True) -> list[str]:
    """The words of a command line, the command first.

        model.onnx -o out.onnx  -->  optimize model.onnx -o out.onnx
        -q verify a.onnx b.onnx -->  verify -q a.onnx b.onnx

    strict: OptionError for a first word that is neither command nor model; else it stays.
    """
    if not args or args[0] in commands:
        return args
    if args[0].startswith("-") and args[0] != "-":
        found = next((i for i, word in enumerate(args) if not word.startswith("-")), None)
        if found is not None and args[found] in commands:
            return [args[found], *args[:found], *args[found + 1 :]]
        return [USUAL, *args] if any(map(_is_model, args)) else args
    if _is_model(args[0]):
        return [USUAL, *args]
    if not strict:
        return args
    close = did_you_mean(args[0], commands)
    raise OptionError(f"{args[0]!r} is neither a command nor a file{close}; there are {', '.join(commands)}")


def _is_model(word: str) -> bool:
    """Whether a word names a file, not a command: it has a suffix or a folder, exists, or is the standard input."""
    if word.startswith("-"):
        return word == "-"
    return bool(Path(word).suffix) or "/" in word or "\\" in word or Path(word).exists()


def variant(
    function: Callable[..., None], name: str, summary: str, *, without: Collection[str] = (), **usual: Any
) -> Callable[..., None]:
    """A variant of a command with fewer options and other defaults.

    without: parameters that keep the other command's defaults. usual: the new default of a parameter, or (annotation,
    default) where its option is also renamed.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in without:
            continue
        given = usual.get(parameter.name, parameter.default)
        hint, default = given if isinstance(given, tuple) else (hints[parameter.name], given)
        parameters.append(parameter.replace(annotation=hint, default=default))

    def command(**given: Any) -> None:
        function(**given)

    return _dressed(command, name, summary, parameters)


def spoken(function: Callable[..., None]) -> Callable[..., None]:
    """A command with the common options `-v` and `-q`."""
    hints = get_type_hints(function, include_extras=True)
    given = [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()]
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, kind, default=False, annotation=hint)
        for name, hint in (("verbose", Verbose), ("quiet", Quiet))
    ]

    def command(*, verbose: bool = False, quiet: bool = False, **named: Any) -> None:
        settle(verbose=verbose, quiet=quiet)
        absent = [p.name.upper() for p in given if p.default is p.empty and named.get(p.name) in (None, [], ())]
        if absent:  # typer 0.16 beside click 8.2 and later does not say so
            raise OptionError(f"{', '.join(absent)}: not given")
        function(**named)

    return _dressed(command, function.__name__, function.__doc__ or "", [*given, *added])


def _dressed(
    command: Callable[..., None], name: str, summary: str, parameters: list[inspect.Parameter]
) -> Callable[..., None]:
    """A wrapper with the name, docstring and signature that typer reads."""
    command.__name__, command.__doc__ = name, summary
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command
