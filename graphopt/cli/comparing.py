"""`graphopt compare`: two models side by side, as a whole or layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ..errors import OptionError
from ..machine.files import check_target
from .common import JSON, Model, out
from .console import write_json
from .progress import progress


def compare(
    original: Model,
    candidate: Model,
    layers: Annotated[bool, typer.Option(help="show where the two drift apart, value by value")] = False,
    inputs: Annotated[Optional[Path], typer.Option(help="an .npz file of inputs by name")] = None,  # noqa: UP045
    samples: Annotated[int, typer.Option(help="how many inputs to synthesise")] = 2,
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="with --layers, write a page, a chart or data: OUT.html, OUT.svg or OUT.json"),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Show how far CANDIDATE is from ORIGINAL: the results (exit codes as of verify), or with --layers every value."""
    if not layers:
        from ..equivalence import compare as run

        if report is not None:
            raise OptionError("--report: goes with --layers")
        with progress("compare"):
            comparison = run(original, candidate, inputs, samples, seed=seed)
        if as_json:
            write_json(comparison.to_dict())
        else:
            out.print(str(comparison), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit({"equal": 0, "different": 1}.get(comparison.status, 3))
    from ..report.drift import compare_layers, drift_table, save_drift

    if report is not None:
        if report.suffix not in (".html", ".svg", ".json"):
            raise OptionError(f"--report {report.name}: the name ends in .html, .svg or .json")
        check_target(report)
    with progress("compare layers"):
        drift = compare_layers(original, candidate, inputs, samples, seed=seed)
    if report is not None:
        save_drift(drift, report, f"{original.name} → {candidate.name}")
    if as_json:
        write_json(drift.to_dict())
        return
    for part in drift_table(drift):
        if isinstance(part, str):
            out.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            out.print(part)
    if report is not None:
        out.print(f"wrote {report}", highlight=False, soft_wrap=True)
