"""Record the recipe of a finished run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..calibration import Calibration
from ..calibration.source import SYNTHETIC
from ..compress.choices import FLOAT32
from ..compress.report import StageReport
from ..ir import Model
from ..options import Options
from .digests import data_digest, model_digest
from .recipe import MadeWith, Recipe


def recorded(options: Options, stages: Iterable[StageReport], model: Model, calibration: Calibration | None) -> Recipe:
    """The recipe of a run: its options, with the stages' decisions written in.

    model: the original. calibration: None where no stage was lossy.
    """
    from ..passes.float16 import Float16
    from ..passes.prune import Prune
    from ..passes.quantize import Quantize

    asked = options.compression
    settled: dict[type, Any] = {type(stage.settled): stage.settled for stage in stages if stage.settled is not None}
    quantize, prune = settled.get(Quantize, asked.quantize), settled.get(Prune, asked.prune)
    precision = settled.get(Float16, asked.precision)
    layers = dict(() if quantize is None else quantize.layers)
    if precision is not None:
        layers.update((name, c) for name, c in precision.layers.items() if c != FLOAT32 or name not in layers)
    return Recipe(
        seed=options.seed, target=options.target, schedule=options.schedule,
        quantize=None if quantize is None else replace(quantize, layers={}, executor=None, cache=None),
        prune=None if prune is None else replace(prune, keep={}),
        precision=None if precision is None else replace(precision, layers={}), recover=asked.recover,
        preprocess=asked.preprocess if isinstance(asked.preprocess, str) else None, layers=layers,
        channels={} if prune is None else prune.keep, model=model_digest(model),
        data=data_of(asked.calibration, calibration), made_with=MadeWith(),
    )  # fmt: skip


def data_of(given: object, calibration: Calibration | None) -> str:
    """The digest of calibration data; "" without data, "synthetic" for requested made-up inputs."""
    if calibration is None or given is None:
        return ""
    return SYNTHETIC if calibration.is_synthetic else data_digest(calibration)
