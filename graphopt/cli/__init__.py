"""The command line. Exit codes: 0 done (or equal), 1 different, 2 unusable input, 3 unverified."""

from __future__ import annotations

import sys

import typer

from ..errors import GraphoptError
from .checking import bisect, verify
from .common import err
from .comparing import compare
from .optimizing import optimize
from .showing import diff, explain, inspect, list_passes
from .timing import bench, warmup

app = typer.Typer(
    name="graphopt", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Optimise ONNX models: the same results, fewer nodes, validated.",
)  # fmt: skip

for command in (optimize, verify, compare, bisect, inspect, diff, explain, bench, warmup):
    app.command()(command)
app.command(name="passes")(list_passes)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2, never a traceback."""
    try:
        app()
    except GraphoptError as error:
        err.print(f"graphopt: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("graphopt: interrupted", style="red")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
