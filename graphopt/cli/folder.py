"""`graphopt optimize DIR`: every model of a folder, into another folder with the files beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import OptionError
from .common import out
from .console import write_json
from .progress import progress
from .results import write

if TYPE_CHECKING:
    from ..options import Options
    from ..result import Result


def optimize_folder(
    source: Path, output: Path, options: Options, kind: str, external: bool, beside: Mapping[str, object], *,
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Optimise the models of `source` into `output`, and print a line for each. OptionError for options of `beside`
    that are given: they are of one model. Exit 3 where one could not be compared.
    """
    from ..api import optimize_as
    from ..folders import optimized_folder

    given = [name for name, value in beside.items() if value]
    if given:
        raise OptionError(f"{', '.join(given)}: of one model, and {str(source)!r} is a folder")
    with progress("optimize") as tell:

        def one(path: Path) -> Result:
            tell(path.name, None)
            return optimize_as(path, options, tell)

        done = optimized_folder(source, output, one, lambda r, path: write(r, path, kind, external), force=force)
    if as_json:
        reports = {name: report.to_dict() for name, report in done.reports.items()}
        write_json({"input": str(source), "output": str(output), "models": reports, "copied": list(done.copied)})
    else:
        lines = [f"{name}: {report.headline}" for name, report in done.reports.items()]
        out.print(*lines, f"copied {len(done.copied)} other files, wrote {output}", sep="\n", markup=False,
                  highlight=False, soft_wrap=True)  # fmt: skip
    if done.is_unverified:
        raise typer.Exit(3)
