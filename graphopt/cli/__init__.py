"""The command line. Exit codes: 0 done (or equal), 1 different, 2 unusable input, 3 unverified."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from ..errors import GraphoptError, one_line
from .checking import bisect, verify
from .common import err
from .comparing import compare
from .distilling import distil
from .editing import edit
from .optimizing import optimize, prune, quantize, simplify
from .recommending import recommend, search
from .routing import Commands, spoken
from .showing import diff, explain, inspect, passes
from .timing import bench, warmup

app = typer.Typer(
    name="graphopt", cls=Commands, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip

COMMANDS = (
    optimize, quantize, prune, distil, simplify, recommend, search, edit,
    verify, compare, bisect,
    inspect, diff, explain, passes,
    bench, warmup,
)  # fmt: skip
"""Every command, in the order in which help lists them; each has `-v` and `-q` beside its own options."""

for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(spoken(command))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"graphopt {sys.modules['graphopt'].__version__}")
        raise typer.Exit()


@app.callback()
def graphopt(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    """Optimise ONNX models: the same results, fewer nodes, validated. `graphopt MODEL` is `graphopt optimize MODEL`."""


_Usage: type[BaseException] = typer.BadParameter.__mro__[2]
"""The base of errors of usage: click's ClickException, of which later versions of typer hold a copy."""
_INTERRUPTED = 130
"""The exit code of a program that the user stopped: 128 and the number of SIGINT."""


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2, never a traceback."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], prog_name="graphopt", standalone_mode=False)
    except GraphoptError as error:
        _fail(str(error))
    except _Usage as error:
        context = getattr(error, "ctx", None)
        place = "graphopt" if context is None else context.command_path
        _fail(f"{one_line(getattr(error, 'format_message', error.__str__)())} (see {place} --help)")
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:
        sys.exit(141)
    if code == _INTERRUPTED:
        err.print("graphopt: interrupted", style="red")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(text: str) -> NoReturn:
    err.print(f"graphopt: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)
