"""`graphopt recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..options import runtime_named
from .common import Model, err, function_of, out


def recommend(
    model: Model,
    calibration: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="typical inputs: an .npz file by name, or a folder of images or arrays"),
    ] = None,
    preprocess: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="of images: raw, unit, signed, imagenet, or as scale=1/255,mean=0.5,std=0.5,size=224x224"),
    ] = None,
    metric: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="module:function of a session, higher is better"),
    ] = None,
    max_drop: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="allowed fall of the metric; a hundredth of the original's by default"),
    ] = None,
    target: Annotated[str, typer.Option(help="portable, onnxruntime or graphopt")] = "portable",
    destination: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="a folder for the file of each mode"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="time for each mode")] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
) -> None:
    """Try the modes that may be worth it on MODEL, and say which to use and why."""
    from ..recommendation import recommend as run

    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err, transient=True,
        disable=not err.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("recommend", total=1.0)
        found = run(
            model, calibration, None if metric is None else function_of(metric), max_drop,
            preprocess=preprocess, target=runtime_named(target), out=destination, seconds=seconds, seed=seed,
            progress=lambda what, share: bar.update(task, completed=share, description=what),
        )  # fmt: skip
    if json:
        print(found.to_json())
        return
    if out.is_terminal:
        out.print(found)
    else:
        out.file.write(str(found))
    if destination is not None:
        out.print(f"wrote {destination}", highlight=False, soft_wrap=True)
