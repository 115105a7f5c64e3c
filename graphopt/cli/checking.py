"""Commands that judge results: `verify` and `bisect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ..options import runtime_named
from .common import Model, Names, out, split


def verify(
    original: Model,
    candidate: Model,
    inputs: Annotated[Optional[Path], typer.Option(help="an .npz file of inputs by name")] = None,  # noqa: UP045
    samples: Annotated[int, typer.Option(help="how many inputs to synthesise")] = 4,
    rtol: Annotated[float, typer.Option(help="tolerance relative to the largest result")] = 1e-4,
    min_sqnr: Annotated[Optional[float], typer.Option(help="accept by this SQNR in dB instead")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
) -> None:
    """Say whether CANDIDATE computes what ORIGINAL computes: exit 0 equal, 1 different, 3 unverified."""
    from ..equivalence import compare

    comparison = compare(original, candidate, inputs, samples, rtol, seed=seed, min_sqnr=min_sqnr)
    out.print(str(comparison), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit({"equal": 0, "different": 1}.get(comparison.status, 3))


def bisect(
    model: Model,
    passes: Names = None,
    skip: Names = None,
    target: Annotated[str, typer.Option(help="portable, onnxruntime or graphopt")] = "portable",
    repros: Annotated[Path, typer.Option(help="the folder that repros are written to")] = Path("repros"),
    samples: Annotated[int, typer.Option(help="how many inputs to make up")] = 4,
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
) -> None:
    """Find the rewrites that change MODEL's results, with a small model for each: exit 0 none, 1 some, 3 unverified."""
    from ..bisection import bisect as run

    found = run(
        model, passes=split(passes), skip=split(skip) or (), target=runtime_named(target), samples=samples, seed=seed
    )
    for number, finding in enumerate(found.findings, 1):
        what = finding.guilty + (f" ({finding.rewrite})" if finding.rewrite else "")
        at = f" at {', '.join(finding.nodes[:3])}" if finding.nodes else ""
        out.print(f"[red]guilty[/] {what}{at}: {finding.reason}", highlight=False, soft_wrap=True)
        if finding.repro is not None:
            path = finding.repro.save(repros / f"{number:02d}-{finding.guilty}")
            out.print(f"  repro of {finding.repro.nodes} nodes: {path}", highlight=False, soft_wrap=True)
    left = found.report
    out.print(
        f"{'with these rolled back' if found else 'no rewrite is guilty'}: {left.status} {left.reason}", soft_wrap=True
    )
    raise typer.Exit(1 if found else 0 if left.status == "equal" else 3)
