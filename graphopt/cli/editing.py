"""`graphopt edit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer

from ..errors import OptionError
from .common import Model, err, out, split

_Repeated = Optional[list[str]]  # noqa: UP045 - typer reads it at run time


def edit(
    model: Model,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="where to write it; MODEL with .edited.onnx by default"),
    ] = None,
    from_: Annotated[
        _Repeated, typer.Option("--from", help="keep the part that starts at this value; repeatable")
    ] = None,
    to: Annotated[_Repeated, typer.Option(help="keep the part that computes this value; repeatable")] = None,
    drop_output: Annotated[
        _Repeated, typer.Option(help="an output that goes, or a pattern such as 'present.*'; repeatable")
    ] = None,
    strip: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="remove metadata, docs, names (of nodes and inner values), or all; comma-separated"),
    ] = None,
    rename: Annotated[_Repeated, typer.Option(help="an input or output, as old=new; repeatable")] = None,
    external: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--external/--inline", help="weights in OUT.data, or in OUT; where they are if unsaid"),
    ] = None,
    inputs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="an .npz file of MODEL's inputs by name, to compare with; made up by default"),
    ] = None,
    allow_unverified: Annotated[bool, typer.Option(help="also write what onnxruntime cannot run")] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="compare the result with MODEL")] = True,
    force: Annotated[bool, typer.Option(help="write over MODEL itself")] = False,
    samples: Annotated[int, typer.Option(help="how many inputs to make up")] = 4,
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
) -> None:
    """Rename, cut, or reformat MODEL and validate that: exit 0 written, 1 different, 3 unverified, nothing written."""
    from ..surgery import NotValidated
    from ..surgery import edit as run

    target = output or model.with_suffix(".edited.onnx")
    try:
        edited = run(
            model, target, inputs=from_ or (), outputs=to or (), drop_outputs=drop_output or (),
            strip=_parts(strip), rename=pairs_of(rename or (), "--rename", "old=new"),
            external=external, force=force, feeds=inputs, validate=check, allow_unverified=allow_unverified,
            samples=samples, seed=seed,
        )  # fmt: skip
    except NotValidated as error:
        err.print(f"graphopt: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if error.comparison.status == "different" else 3) from error
    out.print(str(edited), markup=False, highlight=False, soft_wrap=True)
    out.print(f"wrote {target}", markup=False, highlight=False, soft_wrap=True)


def pairs_of(texts: Sequence[str], option: str, form: str) -> dict[str, str]:
    """Texts such as `old=new` as a dict, split at the last sign of equality. OptionError."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.rpartition("=")
        if not equals or not key or not value:
            raise OptionError(f"{option} {text!r}: write it as {form}")
        if key in pairs:
            raise OptionError(f"{option}: {key!r} is given twice")
        pairs[key] = value
    return pairs


def _parts(text: str | None) -> Sequence[str]:
    from ..surgery.names import PARTS

    return PARTS if text == "all" else split(text) or ()
