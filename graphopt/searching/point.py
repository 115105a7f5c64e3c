"""One measured point of a search: a recipe with its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any

Recipe = Mapping[str, Any]
"""The recipe of a point, as plain data: see `graphopt.searching.plan`."""
ORIGINAL = "original"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A recipe and the measurements of its model.

    name: "original", or "trial" and its number. recipe: empty for the original. latency: the time of one run as a share
    of the original's, in one thread of onnxruntime; error: the standard error of that, as a share of it; None where no
    run was timed. sqnr_db: to the original, on the judging samples; infinite where results are equal. low_db: the SQNR
    that nine of ten of them reach. metric: the caller's, higher is better; metric_error: its standard error where it is
    a share of a known number of rows. held_db: SQNR on samples that the search never saw; None where none were held
    out, or before the end. size: bytes of the file. path: of the file, "" where it is gone because another point is
    better in everything. predicted: latency, noise and size by the tables before the model was built. why: words for a
    recipe that could not be built, "" for one that was.
    """

    name: str
    recipe: Recipe = field(default_factory=dict)
    latency: float | None = None
    error: float = 0.0
    sqnr_db: float = math.inf
    low_db: float = math.inf
    metric: float | None = None
    metric_error: float | None = None
    held_db: float | None = None
    size: int = 0
    path: str = ""
    predicted: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    why: str = ""

    @property
    def is_original(self) -> bool:
        """Whether this is the given model."""
        return self.name == ORIGINAL

    @property
    def speedup(self) -> float:
        """How many times as fast as the original; NaN where it was not timed."""
        return math.nan if self.latency is None else 1.0 / self.latency

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the latency."""
        if self.latency is None:
            return None
        return self.latency * (1 - 2 * self.error), self.latency * (1 + 2 * self.error)

    @property
    def quality(self) -> float:
        """The metric where there is one, else SQNR in dB; higher is better."""
        return self.sqnr_db if self.metric is None else self.metric

    def values(self, objectives: Sequence[str]) -> tuple[float, ...]:
        """The objectives as numbers to minimise; infinite latency where none was measured."""
        of = {
            "latency": math.inf if self.latency is None else self.latency, "quality": -self.quality,
            "size": float(self.size),
        }  # fmt: skip
        return tuple(of[name] for name in objectives)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, infinite ratios as None."""
        return {key: None if value in (math.inf, -math.inf) else value for key, value in asdict(self).items()}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Point:
        """The point of `to_dict`; what it does not know is left out."""
        known = {f.name for f in fields(cls)}
        given = {key: value for key, value in data.items() if key in known}
        for key in ("sqnr_db", "low_db"):
            if given.get(key) is None:
                given[key] = -math.inf if given.get("why") else math.inf
        return cls(**given)


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere worse and somewhere better; both are to minimise."""
    return all(a <= b for a, b in zip(one, other)) and any(a < b for a, b in zip(one, other))


def front_of(points: Sequence[Point], objectives: Sequence[str]) -> tuple[Point, ...]:
    """The points that no other dominates, the original first, then from the fastest on; of equal points the first.

    The original is always included, for comparison. A model whose results hold more noise than signal (below 0 dB) is
    excluded, unless a metric judges it.
    """
    kept: list[Point] = []
    fit = [p for p in points if not p.why and (p.metric is not None or p.sqnr_db >= 0.0)]
    values = [point.values(objectives) for point in fit]
    for point, own in zip(fit, values):
        equal = any(own == other.values(objectives) for other in kept)
        if point.is_original or not (equal or any(dominates(v, own) for v in values)):
            kept.append(point)
    return tuple(sorted(kept, key=lambda point: (not point.is_original, *point.values(objectives))))


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume that points dominate below a reference, all to minimise: by slices along the last axis (Fleischer)."""
    inside = [tuple(p) for p in points if all(a < b for a, b in zip(p, reference))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    volume = 0.0
    levels = [*sorted({p[-1] for p in inside}), reference[-1]]
    for low, high in pairwise(levels):
        below = [p[:-1] for p in inside if p[-1] <= low]
        volume += (high - low) * hypervolume(below, reference[:-1])
    return volume
