"""Commands that measure time: `bench` and `warmup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from .common import Model, out, print_whole


def bench(
    models: Annotated[list[Path], typer.Argument(help="ONNX files, the first is the base", show_default=False)],
    threads: Annotated[int, typer.Option(help="threads within an operator")] = 1,
    seconds: Annotated[float, typer.Option(help="time for each model")] = 2.0,
    inputs: Annotated[Optional[Path], typer.Option(help="an .npz file of inputs by name")] = None,  # noqa: UP045
    profile: Annotated[bool, typer.Option(help="show the time of each node, of two models side by side")] = False,
) -> None:
    """Time models side by side in onnxruntime and graphopt's Session, on the same inputs, interleaved."""
    from ..bench import bench_table, profile_tables

    if profile:
        for table in profile_tables(models, inputs=inputs):
            print_whole(table)
        return
    out.print(bench_table(models, threads=threads, seconds=seconds, inputs=inputs))


def warmup(
    model: Model,
    threads: Annotated[int, typer.Option(help="threads within an operator")] = 1,
    seconds: Annotated[float, typer.Option(help="time for each region")] = 0.5,
    inputs: Annotated[Optional[Path], typer.Option(help="an .npz file of inputs by name")] = None,  # noqa: UP045
) -> None:
    """Compile a model's kernels and measure what is faster on this machine: kernels or onnxruntime."""
    from ..bench import warmup_table

    out.print(warmup_table(model, threads=threads, seconds=seconds, inputs=inputs))
