"""Commands that validate results: `verify` and `bisect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ..options import TARGETS, runtime_named
from .common import JSON, Model, Names, one_of, out, split
from .console import write_json
from .progress import progress


def verify(
    original: Model,
    candidate: Model,
    inputs: Annotated[Optional[Path], typer.Option(help="an .npz file of inputs by name")] = None,  # noqa: UP045
    samples: Annotated[int, typer.Option(help="how many inputs to synthesise")] = 4,
    rtol: Annotated[float, typer.Option(help="tolerance relative to the largest result")] = 1e-4,
    min_sqnr: Annotated[Optional[float], typer.Option(help="accept by this SQNR in dB instead")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
    runtime: Annotated[
        str, typer.Option(help="what runs both: onnxruntime, or torch", autocompletion=one_of("onnxruntime", "torch"))
    ] = "onnxruntime",
    as_json: JSON = False,
) -> None:
    """Say whether CANDIDATE computes what ORIGINAL computes: exit 0 equal, 1 different, 3 unverified."""
    from ..equivalence import compare

    with progress("verify"):
        comparison = compare(original, candidate, inputs, samples, rtol, seed=seed, min_sqnr=min_sqnr, runtime=runtime)
    if as_json:
        write_json(comparison.to_dict())
    else:
        out.print(str(comparison), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit({"equal": 0, "different": 1}.get(comparison.status, 3))


def bisect(
    model: Model,
    passes: Names = None,
    skip: Names = None,
    target: Annotated[
        str, typer.Option(help="portable, onnxruntime or graphopt", autocompletion=one_of(*TARGETS))
    ] = "portable",
    repros: Annotated[Path, typer.Option(help="the folder that repros are written to")] = Path("repros"),
    samples: Annotated[int, typer.Option(help="how many inputs to make up")] = 4,
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
    as_json: JSON = False,
) -> None:
    """Find the rewrites that change MODEL's results, with a small model for each: exit 0 none, 1 some, 3 unverified."""
    from ..bisection import bisect as run

    runtime, wanted, unwanted = runtime_named(target), split(passes), split(skip) or ()
    with progress("bisect") as tell:
        found = run(model, passes=wanted, skip=unwanted, target=runtime, samples=samples, seed=seed, progress=tell)
    rows = []
    for number, finding in enumerate(found.findings, 1):
        what = finding.guilty + (f" ({finding.rewrite})" if finding.rewrite else "")
        at = f" at {', '.join(finding.nodes[:3])}" if finding.nodes else ""
        path = None if finding.repro is None else finding.repro.save(repros / f"{number:02d}-{finding.guilty}")
        rows.append({
            "pass": finding.guilty, "rewrite": finding.rewrite, "nodes": finding.nodes, "reason": finding.reason,
            "repro": None if path is None else str(path),
        })  # fmt: skip
        if as_json:
            continue
        out.print("guilty ", style="red", end="")
        out.print(f"{what}{at}: {finding.reason}", markup=False, highlight=False, soft_wrap=True)
        if finding.repro is not None:
            line = f"  repro of {finding.repro.nodes} nodes: {path}"
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    left = found.report
    if as_json:
        write_json({"findings": rows, "status": left.status, "reason": left.reason})
    else:
        verdict = "with these rolled back" if found else "no rewrite is guilty"
        out.print(f"{verdict}: {left.status} {left.reason}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1 if found else 0 if left.status == "equal" else 3)
