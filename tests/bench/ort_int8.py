"""int8 by onnxruntime.quantization in six settings, the rival in int8 benchmarks; files are kept in the zoo's cache."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests import zoo
from tests.bench.quantized import prepare

Feeds = dict[str, np.ndarray]
SETTINGS = ("u8s8", "u8s8-7bit", "s8s8", "qoperator", "dynamic", "per-tensor")
LIMIT = 150.0
"""Seconds one setting may take; its quantizer did not finish densenet121 in 500."""


class Reader:
    """A CalibrationDataReader of feeds."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self.feeds, None)


def quantize(source: Path, target: Path, setting: str, feeds: Sequence[Feeds]) -> None:
    """One setting of the quantizer, on a prepared model."""
    from onnxruntime import quantization as q

    if setting == "dynamic":
        q.quantize_dynamic(source, target, per_channel=True, weight_type=q.QuantType.QInt8)
        return
    q.quantize_static(
        source, target, Reader(feeds), per_channel=setting != "per-tensor",
        quant_format=q.QuantFormat.QOperator if setting == "qoperator" else q.QuantFormat.QDQ,
        activation_type=q.QuantType.QInt8 if setting == "s8s8" else q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8, reduce_range=setting == "u8s8-7bit",
    )  # fmt: skip


def variants(
    name: str, source: Path, feeds: Sequence[Feeds], settings: Sequence[str] = SETTINGS, seed: int = 0,
    limit: float = LIMIT,
) -> dict[str, Path]:  # fmt: skip
    """The quantized file of each setting that gives one within the limit, written once for a calibration seed."""
    folder = zoo.cache() / "ort_int8"
    folder.mkdir(parents=True, exist_ok=True)
    prepared = folder / f"{name}-prepared.onnx"
    if not prepared.is_file():
        prepare(source, prepared)
    files = {}
    for setting in settings:
        calibrated = seed and setting != "dynamic"
        stem = folder / (f"{name}-{setting}-seed{seed}" if calibrated else f"{name}-{setting}")
        target, failed = stem.with_name(f"{stem.name}.onnx"), stem.with_name(f"{stem.name}.failed")
        if not target.is_file() and not failed.is_file():
            beside = target.with_suffix(".part")
            context: Any = multiprocessing.get_context("fork")
            worker = context.Process(target=_quietly, args=(prepared, beside, setting, feeds))
            worker.start()
            worker.join(limit)
            if worker.is_alive():
                worker.kill()
                worker.join()
            if beside.is_file() and worker.exitcode == 0:
                beside.replace(target)
            else:
                failed.write_text(f"exit code {worker.exitcode} within {limit} s")
        if target.is_file():
            files[setting] = target
    return files


def _quietly(*arguments: Any) -> None:
    import logging

    logging.disable(logging.WARNING)
    quantize(*arguments)
