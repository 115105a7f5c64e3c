"""`graphopt recommend` and `graphopt search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ..errors import OptionError
from ..options import runtime_named
from .common import (
    JSON,
    Calibration,
    MetricName,
    Model,
    Preprocess,
    Scheduler,
    TargetName,
    Workers,
    function_of,
    out,
    split,
)
from .console import write_json
from .progress import progress


def recommend(
    model: Model,
    calibration: Calibration = None,
    preprocess: Preprocess = None,
    metric: MetricName = None,
    max_drop: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="allowed fall of the metric; a hundredth of the original's by default"),
    ] = None,
    target: TargetName = "portable",
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


def search(
    model: Model,
    calibration: Calibration = None,
    preprocess: Preprocess = None,
    metric: MetricName = None,
    budget: Annotated[str, typer.Option(help="10m, 1h, 90s, or '30 trials'")] = "10m",
    objectives: Annotated[str, typer.Option(help="of latency, quality, size")] = "latency,quality,size",
    space: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="of float16, 'static int8', dynamic, weights8, weights4, channels, calibration, recovery"),
    ] = None,
    target: TargetName = "portable",
    destination: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="a folder for the front, its models and recipes; resumes what is there"),
    ] = None,
    max_drop: Annotated[Optional[float], typer.Option(help="name the fastest that keeps the metric to this")] = None,  # noqa: UP045
    min_sqnr: Annotated[Optional[float], typer.Option(help="name the fastest of this many dB")] = None,  # noqa: UP045
    speedup: Annotated[Optional[float], typer.Option(help="name the best that is this many times as fast")] = None,  # noqa: UP045
    size_mb: Annotated[Optional[float], typer.Option(help="name the best of at most so many megabytes")] = None,  # noqa: UP045
    workers: Workers = None,
    scheduler: Scheduler = None,
    seed: Annotated[int, typer.Option(help="of every choice that is drawn")] = 0,
    as_json: JSON = False,
) -> None:
    """Search for the recipes of MODEL that nothing beats in latency, quality and size.

    Quality is the metric where there is one, else the SQNR beside MODEL.

    A folder of a search that was interrupted is resumed by the same command.
    """
    from ..parallel import executor_of
    from ..searching import search as run

    if destination is None and not as_json:
        raise OptionError("search: name a folder for what is found: --out DIR")
    with executor_of(workers, scheduler) as executor, progress("search") as tell:
        front = run(
            model, calibration=calibration, metric=None if metric is None else function_of(metric), budget=budget,
            objectives=split(objectives) or (), space=split(space), seed=seed, progress=tell, out=destination,
            target=runtime_named(target), preprocess=preprocess, executor=executor,
        )  # fmt: skip
    limits = {"max_drop": max_drop, "min_sqnr": min_sqnr, "speedup": speedup, "size_mb": size_mb}
    is_picked = any(limit is not None for limit in limits.values())
    picked = front.pick(**limits) if is_picked else None  # type: ignore[arg-type]
    if as_json:
        write_json({**front.to_dict(), "picked": None if picked is None else picked.to_dict()})
        return
    out.print(front)
    if picked is not None:
        out.print(f"picked {picked.name}: {picked.path}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"wrote {destination}", markup=False, highlight=False, soft_wrap=True)
