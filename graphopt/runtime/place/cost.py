"""The predicted time of a partition: its regions on kernels, the rest in onnxruntime, and the cut's own cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...ir import Model, Node, Value
from ...kernels import available_levels, select_level
from ..lower.traits import Operation, Shape
from .assumed import Shapes
from .partition import Segment, constant_nodes
from .rates import BETWEEN, CROSSING, CUT, OTHER, RATES, SEGMENT, SESSION, WHOLE, LevelRates, Rates, cold_share
from .stock import AS_COMPUTED, AS_STORED, work_in_forms
from .stored import is_multiplied_as_stored, is_stored, may_be_computed
from .work import Work, border_work, class_of, operation_numbers

_NANO = 1e-9  # seconds of a nanosecond, in which rates are given


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of a partition: its regions on kernels, their calls included, its nodes in onnxruntime as they are in
    the whole model, what both take more as the caches are the other's (`Cold`), the number of segments there, and that
    of values which cross borders beyond one into and one out of each region."""

    kernels: float
    onnxruntime: float
    cold: float
    segments: int
    crossings: int

    @property
    def seconds(self) -> float:
        """Total seconds, the cut's included."""
        return self.kernels + self.onnxruntime + self.cut

    @property
    def cut(self) -> float:
        """Seconds of the cut itself."""
        return self.cold + (self.segments * SEGMENT + self.crossings * CROSSING + SESSION) * _NANO

    def __str__(self) -> str:
        if not self.segments:
            return f"{micro(self.seconds)}, all of it on kernels"
        return (
            f"{micro(self.seconds)} ({micro(self.kernels)} on kernels, {micro(self.onnxruntime)} in onnxruntime, "
            f"{micro(self.cold)} for cold caches, {self.segments} × {SEGMENT * 1e-3:g} µs of borders"
            + (f", {self.crossings} × {CROSSING * 1e-3:g} µs of values)" if self.crossings else ")")
        )


class Costs:
    """The predicted times of a model's operations and nodes, at known shapes and shapes inferred from these."""

    def __init__(self, model: Model, known: Mapping[Value, Shape]) -> None:
        stock = RATES[available_levels()[0].name]  # onnxruntime uses the CPU's best level, whatever GRAPHOPT_ISA sets
        self.rates, self.shapes = LevelRates(RATES[select_level().name].kernels, stock.onnxruntime), Shapes(known)
        self._on_kernels: dict[Operation, float] = {}
        constant = constant_nodes(model.graph)
        nodes = [node for node in model.graph if node not in constant]
        for node in nodes:
            for value in (*node.inputs, *node.outputs):
                if value is not None:
                    self.shapes.of(value)
        forms = (False, True) if may_be_computed(model.graph) else (False,)
        self._forms = _seconds(work_in_forms(nodes, self.shapes.known, forms), self.rates.onnxruntime)
        self.whole = self.in_onnxruntime(nodes) + seconds_of({WHOLE: [1.0, 0.0, 0.0, 0.0, 0.0]}, self.rates.onnxruntime)

    def in_onnxruntime(self, nodes: Iterable[Node]) -> float:
        """Seconds of nodes in onnxruntime within the whole model, stored weights dequantized in each run or once."""
        listed = dict.fromkeys(nodes)
        return min(sum(seconds.get(node, 0.0) for node in listed) for seconds in self._forms)

    def on_kernels(self, operation: Operation) -> float:
        """Seconds of an operation on kernels, in a region."""
        if operation not in self._on_kernels:
            self.shapes.add(operation)
            work: Work = {class_of(operation): list(operation_numbers(operation, self.shapes.known))}
            self._on_kernels[operation] = seconds_of(work, self.rates.kernels)
        return self._on_kernels[operation]

    def of_region(self, region: Segment) -> float:
        """Seconds of a region on kernels, its call included."""
        seconds = sum(self.on_kernels(operation) for operation in region.operations)
        for value in (*region.inputs, *region.outputs):
            self.shapes.of(value)
        return seconds + seconds_of(border_work(region, self.shapes.known), self.rates.kernels)

    def of(self, segments: Sequence[Segment]) -> Prediction:
        """The prediction for a partition."""
        regions = [segment for segment in segments if segment.is_region]
        others = [segment for segment in segments if not segment.is_region]
        kernels = [self.of_region(region) for region in regions]
        stock = [self.in_onnxruntime(unit for unit in one.units if isinstance(unit, Node)) for one in others]
        cold = sum(map(BETWEEN.after, kernels)) + sum(map(CUT.after, stock)) if regions and others else 0.0
        crossings = sum(max(len(values) - 1, 0) for region in regions for values in (region.inputs, region.outputs))
        return Prediction(sum(kernels), sum(stock), cold * cold_share(len(regions)), len(others), crossings)


def computes_weights(nodes: Sequence[Node], shapes: Callable[[], Mapping[Value, Shape]]) -> bool:
    """Whether onnxruntime is predicted to run nodes faster with stored weights dequantized once, at loading. `shapes`
    is called only if some weight is multiplied as stored: for the others dequantizing once always wins."""
    if not any(is_stored(value) for node in nodes for value in node.inputs):
        return False
    known = shapes() if any(map(is_multiplied_as_stored, nodes)) else {}
    rates = RATES[available_levels()[0].name].onnxruntime
    stored, computed = (sum(seconds.values()) for seconds in _seconds(work_in_forms(nodes, known), rates))
    return computed < stored


def floats_multiply_faster(rows: int, inputs: int, outputs: int) -> bool:
    """Whether onnxruntime is predicted to multiply `rows` by a matrix faster with weights dequantized once, at loading,
    than by the codes."""
    work = [1.0, float(rows * inputs), float(rows * outputs), float(inputs * outputs), float(rows * inputs * outputs)]
    rates = RATES[available_levels()[0].name].onnxruntime
    return seconds_of({AS_COMPUTED: work}, rates) < seconds_of({AS_STORED: work}, rates)


def _seconds(forms: Iterable[Mapping[Node, Work]], rates: Rates) -> list[dict[Node, float]]:
    """Seconds of nodes at rates, for each form of their work."""
    return [{node: seconds_of(work, rates) for node, work in works.items()} for works in forms]


def region_nodes(operations: Iterable[Operation]) -> list[Node]:
    """The nodes that operations cover, each once."""
    return list(dict.fromkeys(node for operation in operations for node in operation.nodes))


def seconds_of(work: Work, rates: Rates) -> float:
    """Seconds of work at rates."""
    return _NANO * sum(
        rate * number for kind, numbers in work.items() for rate, number in zip(rates.get(kind, rates[OTHER]), numbers)
    )


def micro(seconds: float) -> str:
    """Seconds as microseconds, with three digits where they are few."""
    return f"{seconds * 1e6:.0f} µs" if seconds >= 1e-4 else f"{seconds * 1e6:.3g} µs"
