"""Predicted partitions: what of a model pays on kernels, before anything of it was measured on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir import Model, Node, Value
from ...kernels import select_level
from ..lower.operations import Coverage
from ..lower.traits import Operation, Shape
from .assumed import Shapes, assumed_shapes
from .measured import with_parts
from .partition import Segment, partition
from .rates import OTHER, RATES, SEGMENT, SESSION, Rates
from .work import BORDER, Work, region_work

GAIN = 0.1
"""The share of its time in onnxruntime that a region must be predicted to win: the median error of a prediction for
models that the rates do not come from, `python -m tests.bench.placement --rows ROWS --fit`."""

BETWEEN = 1.3
"""How much longer kernels take between segments in onnxruntime than alone, as the rates were measured: these take each
other's caches. From the same rows, whose sessions are slower by 0.46 of their regions' time, QDQ files by less."""

_NANO = 1e-9  # seconds of a nanosecond, in which rates are given


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of a region: on kernels, its call included, and of its nodes among others in onnxruntime."""

    kernels: float
    onnxruntime: float

    def with_borders(self, segments: int) -> float:
        """The seconds on kernels, so many segments in onnxruntime between them."""
        return self.kernels * BETWEEN + segments * SEGMENT * _NANO if segments else self.kernels

    def pays(self, segments: int) -> bool:
        """The kernels win by GAIN, with so many segments in onnxruntime between them."""
        return self.with_borders(segments) <= (1 - GAIN) * self.onnxruntime

    def told(self, segments: int) -> str:
        """All that decides, in a line."""
        between = f" × {BETWEEN:g} between segments, + {segments * SEGMENT * 1e-3:.0f} µs for borders"
        kernels = f"{micro(self.kernels)}{between} = {micro(self.with_borders(segments))}"
        asked = f"{micro((1 - GAIN) * self.onnxruntime)}: {micro(self.onnxruntime)} in onnxruntime less {GAIN:.0%}"
        return f"predicted {kernels if segments else micro(self.kernels)} on kernels, at most {asked}"


def micro(seconds: float) -> str:
    """Seconds as microseconds, with three digits where they are few."""
    return f"{seconds * 1e6:.0f} µs" if seconds >= 1e-4 else f"{seconds * 1e6:.3g} µs"


@dataclass(frozen=True, slots=True)
class Placement:
    """What is predicted of a partition: operations left to their nodes, and what decided, by node and by operation."""

    left: set[Operation]
    reasons: dict[Node, str]
    decisions: dict[Operation, str]


def predict(segment: Segment, known: Mapping[Value, Shape]) -> Prediction:
    """The times of a region at the shapes that are known, or follow from them."""
    shapes = Shapes(known)
    for value in segment.inputs:
        shapes.of(value)
    for operation in segment.operations:
        shapes.add(operation)
    kernels, stock = region_work(segment, shapes.known)
    rates = RATES[select_level().name]
    del stock[BORDER]
    return Prediction(_seconds(kernels, rates.kernels), _seconds(stock, rates.onnxruntime))


def _seconds(work: Work, rates: Rates) -> float:
    return _NANO * sum(
        rate * number for kind, numbers in work.items() for rate, number in zip(rates.get(kind, rates[OTHER]), numbers)
    )


def left_by_prediction(model: Model, coverage: Coverage) -> Placement:
    """The operations that are left to their nodes as onnxruntime is predicted to run these faster.

    Regions that do not pay by themselves go back, until those of the partition that results do; then all go back where
    they do not pay for the borders between them.
    """
    known = assumed_shapes(model)
    banned: set[Operation] = set()
    reasons: dict[Node, str] = {}
    while True:
        segments = partition(model.graph, coverage, banned)
        regions = [segment for segment in segments if segment.is_region]
        if not regions:
            return Placement(banned, reasons, {})
        predictions = [predict(region, known) for region in regions]
        others = len(segments) - len(regions)
        slow = [(r, p) for r, p in zip(regions, predictions) if not p.pays(min(others, 1))]
        if not slow:
            kernels, stock = sum(p.kernels for p in predictions), sum(p.onnxruntime for p in predictions)
            whole = Prediction(kernels + SESSION * _NANO, stock)
            if whole.pays(others):
                told = [(region, p.told(min(others, 1))) for region, p in zip(regions, predictions)]
                return Placement(banned, reasons, {o: text for region, text in told for o in region.operations})
            for region in regions:
                _explain(reasons, region, f"all regions together: {whole.told(others)}")
            return Placement(set(coverage.providers.values()), reasons, {})
        for region, prediction in slow:
            _explain(reasons, region, prediction.told(min(others, 1)))
        banned |= with_parts(coverage, [region for region, _ in slow], regions)


def _explain(reasons: dict[Node, str], region: Segment, text: str) -> None:
    for operation in region.operations:
        for node in operation.nodes:
            reasons.setdefault(node, text)
