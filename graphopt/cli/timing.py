"""Commands that measure time: `bench` and `warmup`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from .common import JSON, Model, out
from .console import write_json
from .progress import progress


def bench(
    models: Annotated[list[Path], typer.Argument(help="ONNX files, the first is the base", show_default=False)],
    threads: Annotated[int, typer.Option(help="threads within an operator")] = 1,
    seconds: Annotated[float, typer.Option(help="time for each model")] = 2.0,
    inputs: Annotated[Optional[Path], typer.Option(help="an .npz file of inputs by name")] = None,  # noqa: UP045
    profile: Annotated[bool, typer.Option(help="show the time of each node, of two models side by side")] = False,
    as_json: JSON = False,
) -> None:
    """Time models side by side in onnxruntime and graphopt's Session, on the same inputs, interleaved."""
    from ..bench import bench_timings, profile_models, timings_table

    if profile:
        with progress("profile"):
            found = profile_models(models, inputs=inputs)
        if as_json:
            write_json(found.to_dict())
        else:
            out.print(*found.tables(), sep="\n")
        return
    with progress("bench") as tell:
        timings = bench_timings(models, threads=threads, seconds=seconds, inputs=inputs, progress=tell)
    if as_json:
        write_json([asdict(timing) for timing in timings])
    else:
        out.print(timings_table(timings))


def warmup(
    model: Model,
    threads: Annotated[int, typer.Option(help="threads within an operator")] = 1,
    seconds: Annotated[float, typer.Option(help="time for each region")] = 0.5,
    inputs: Annotated[Optional[Path], typer.Option(help="an .npz file of inputs by name")] = None,  # noqa: UP045
    as_json: JSON = False,
) -> None:
    """Compile a model's kernels and measure what is faster on this machine: kernels or onnxruntime."""
    from ..bench import warmup_table, warmup_timings

    with progress("warmup") as tell:
        timings = warmup_timings(model, threads=threads, seconds=seconds, inputs=inputs, progress=tell)
    if as_json:
        write_json([{**asdict(timing), "runs_on": timing.runs_on} for timing in timings])
    else:
        out.print(warmup_table(timings))
