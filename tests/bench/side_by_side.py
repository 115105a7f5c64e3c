"""graphopt's int8 of a model beside onnxruntime.quantization's best of six settings: measured, and printed as rows.

Both are calibrated with the same feeds, once for each calibration seed. Speed is float time / int8 time in stock
onnxruntime, one thread, interleaved; quality is judged on inputs unseen by both. onnxruntime is represented by its
fastest setting with the first seed; where none is faster than float, by the setting with the most decisions equal to
float's.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from graphopt import onnx_io
from graphopt.calibration import shapes_at
from graphopt.ir import Value
from graphopt.measure import compare_latency, macs_at, macs_values, ort_session
from tests import zoo
from tests.bench.ort_int8 import SETTINGS, Feeds, variants

Array = np.ndarray[Any, Any]
Decide = Callable[[list[Array]], list[object]]
FLOAT, OURS = "float", "graphopt"
HEAD = (
    f"{'model':18}{'by':24}{'MACs':>6}{'size':>6}{'speed (worst)':>15}{'SQNR dB (worst)':>18}"
    f"{'same decision (worst)':>24}"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One model: calibration feeds by seed, unseen feeds, a user's decisions by the results, options to quantize by."""

    name: str
    known: Callable[[int], list[Feeds]]
    unseen: list[Feeds]
    decide: Decide
    options: graphopt.Quantize
    guards: dict[str, Any] = field(default_factory=dict)
    validate: bool = True


@dataclass(frozen=True, slots=True)
class Measured:
    """One int8 model. macs: share in int8; size, speed: beside float; sqnr: dB of the worst output; same: share of
    decisions that are the float model's."""

    macs: float
    size: float
    speed: float
    sqnr: float
    same: float


def compare(case: Case, seeds: int, seconds: float, every: bool = False) -> tuple[dict[str, list[Measured]], str]:
    """The measurements of each side, one a seed, and graphopt's own summary. every: all of onnxruntime's settings."""
    path = zoo.path(case.name)
    if path is None:
        raise FileNotFoundError("not in the zoo's cache: run python -m tests.zoo")
    by_side: dict[str, list[Measured]] = {}
    settings: Sequence[str] = SETTINGS
    words = ""
    for seed in range(seeds):
        known = case.known(seed)
        result = graphopt.optimize(
            path, quantize=case.options, calibration=known, seed=seed, validate=case.validate, **case.guards
        )
        words = words or result.report.stages[0].summary
        blobs = {OURS: result.model.SerializeToString()}
        blobs.update((k, target.read_bytes()) for k, target in variants(case.name, path, known, settings, seed).items())
        measured = _measure(path, blobs, case, seconds)
        if seed == 0:
            settings = tuple(k for k in measured if k != OURS) if every else best(measured)
        for side in (OURS, *settings):
            if side in measured:
                by_side.setdefault(side, []).append(measured[side])
    return by_side, words


def best(measured: dict[str, Measured]) -> tuple[str, ...]:
    """onnxruntime's best setting, if any ran."""
    rivals = {k: v for k, v in measured.items() if k != OURS}
    faster = {k: v for k, v in rivals.items() if v.speed > 1.0}
    if faster:
        return (max(faster, key=lambda k: faster[k].speed),)
    return (max(rivals, key=lambda k: (rivals[k].same, rivals[k].sqnr)),) if rivals else ()


def _measure(path: Path, blobs: dict[str, bytes], case: Case, seconds: float) -> dict[str, Measured]:
    sessions = {FLOAT: ort_session(str(path))}
    for side, blob in blobs.items():
        try:
            sessions[side] = ort_session(blob)
            sessions[side].run(None, case.unseen[0])
        except Exception:  # a rival's file that onnxruntime cannot run is no rival; ours must run
            if side == OURS:
                raise
            sessions.pop(side, None)
    ratios = {t.label: t.ratio for t in compare_latency(sessions, case.unseen[0], seconds=seconds)}
    size = path.stat().st_size
    return {
        side: Measured(integer_share(blobs[side], case.unseen[0]), len(blobs[side]) / size, ratios[side],
                    *quality(case.decide, sessions[FLOAT], session, case.unseen))
        for side, session in sessions.items() if side != FLOAT
    }  # fmt: skip


def quality(decide: Decide, a: Any, b: Any, feeds: Iterable[Feeds]) -> tuple[float, float]:
    """SQNR in dB of the worst output of b beside a, share of equal decisions."""
    signal: dict[int, float] = {}
    noise: dict[int, float] = {}
    same, total = 0, 0
    for feed in feeds:
        first, second = a.run(None, feed), b.run(None, feed)
        for i, (x, y) in enumerate(zip(first, second)):
            signal[i] = signal.get(i, 0.0) + float((x.astype(np.float64) ** 2).sum())
            noise[i] = noise.get(i, 0.0) + float(((x.astype(np.float64) - y) ** 2).sum())
        ours, theirs = decide(first), decide(second)
        same += sum(p == q for p, q in zip(ours, theirs))
        total += len(ours)
    return min(10 * np.log10(max(signal[i], 1e-30) / max(noise[i], 1e-30)) for i in signal), same / total


def integer_share(blob: bytes, feed: Feeds) -> float:
    """The share of multiply-accumulates on integers: both factors are codes, or are read from codes."""
    total, integer, model = 0, 0, onnx_io.load(blob)
    for node, macs in macs_at(model, shapes_at(model, macs_values(model), feed)).items():
        total += macs
        named = "QLinear" in node.op or "Integer" in node.op or "QGemm" in node.op or "Quantize" in node.op
        integer += macs if named or all(_reads_codes(v) for v in node.inputs[:2]) else 0
    return integer / max(total, 1)


def _reads_codes(value: Value | None) -> bool:
    return value is not None and value.producer is not None and value.producer.op == "DequantizeLinear"


def rows(name: str, by_side: dict[str, list[Measured]]) -> list[str]:
    """A line a side: means over seeds, and the worst seed's in brackets."""
    lines = []
    for side, figures in by_side.items():
        by = OURS if side == OURS else f"onnxruntime {side}"
        means = [float(np.mean([getattr(f, column) for f in figures])) for column in Measured.__dataclass_fields__]
        worst = [min(getattr(f, column) for f in figures) for column in ("speed", "sqnr", "same")]
        speed, sqnr, same = f"{means[2]:.3f} ({worst[0]:.3f})", f"{means[3]:.1f} ({worst[1]:.1f})", (
            f"{means[4]:.2%} ({worst[2]:.2%})"
        )  # fmt: skip
        lines.append(
            f"{name if side == OURS else '':18}{by:24}{means[0]:>6.0%}{means[1]:>6.2f}{speed:>15}{sqnr:>18}{same:>24}"
        )
    return lines


def table(cases: Iterable[tuple[str, Callable[[], Case]]], seeds: int, seconds: float, every: bool = False) -> int:
    """Print the table, a model as soon as it is measured; returns how many failed: one that does loses its row only."""
    print(HEAD, flush=True)
    failed = 0
    for name, make in cases:
        try:
            by_side, words = compare(make(), seeds, seconds, every)
            print("\n".join([*rows(name, by_side), f"{'':18}{words}"]), flush=True)
        except Exception as error:
            failed += 1
            reason = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
            print(f"{name:18}failed: {reason[:100]}", flush=True)
    return failed
