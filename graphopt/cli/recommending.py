"""`graphopt recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ..options import runtime_named
from .common import JSON, Model, Preprocess, function_of, out
from .console import write_json
from .progress import progress


def recommend(
    model: Model,
    calibration: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="typical inputs: an .npz file by name, or a folder of images or arrays"),
    ] = None,
    preprocess: Preprocess = None,
    metric: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="file.py:function or module:function of a session, higher is better"),
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
    seed: Annotated[int, typer.Option(help="seed of synthesised inputs")] = 0,
    as_json: JSON = False,
) -> None:
    """Try the modes that may be worth it on MODEL, and say which to use and why."""
    from ..recommendation import recommend as run

    with progress("recommend") as tell:
        found = run(
            model, calibration, None if metric is None else function_of(metric), max_drop,
            preprocess=preprocess, target=runtime_named(target), out=destination, seconds=seconds, seed=seed,
            progress=tell,
        )  # fmt: skip
    if as_json:
        write_json(found.to_dict())
        return
    out.print(found)
    if destination is not None:
        out.print(f"wrote {destination}", markup=False, highlight=False, soft_wrap=True)
