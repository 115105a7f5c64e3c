"""The predicted partition: the regions of a model that pay on kernels, before any measurement on this machine.

A partition's time is the sum of its regions, the rest in onnxruntime, and the cut itself (`Prediction`). The number of
segments depends on the order of the whole graph, so that no single minimum cut models it: the cheapest of a few
candidate partitions is taken, each costed as it would run. Candidates are the partition with all regions, and minimum
cuts at several prices of an edge; regions of the cheapest are then removed one by one while that gains. The whole model
in onnxruntime is always a candidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ...ir import Model, Node, Value
from ...kernels import available_levels, select_level
from ..lower.lowering import lower
from ..lower.traits import Operation, Shape
from .assumed import shapes_for
from .cost import Costs, micro, region_nodes
from .measured import with_parts
from .minimum_cut import Choices
from .partition import Partitions, Segment, results, sources
from .placement import Placement
from .rates import BETWEEN, CUT, SEGMENT, cold_share

GAIN, DOUBT = 0.05, 0.25
"""The predicted gain that a partition needs: this share of the whole model's time in onnxruntime, and this share of the
cut's own cost, which is known less well than the time of either runtime. The least of a few round numbers with which no
partitioned model was slower by `python -m tests.bench.session_ratio`."""

ALONE = 0.03
"""The predicted gain that a partition with one region needs instead: it is cut only before and behind it. Of 18
encoders, by both exporters and quantizers, with predicted gains of 0.3 to 11 %, each ran 1.01 to 1.26 times as fast,
while two recurrent models of 0.6 and 0.7 % lost 5 and 8 %."""

BELOW = 0.15
"""The least predicted gain of any partition where GRAPHOPT_ISA sets kernels below the CPU's level: rates there come
from fewer rows, and onnxruntime keeps the CPU's level. With AVX2 on a CPU with VNNI, three encoders with a predicted
gain of 6 % ran 0.80 to 0.84 times as fast, four files of 20 % and more 1.19 to 1.59 times
(GRAPHOPT_ISA=avx2 `python -m tests.bench.session_ratio`)."""

_EDGES = (0.0, 0.1, 0.4)
"""Prices of an edge between the runtimes, in units of SEGMENT, for the minimum cuts: a border has several edges."""

_TRIES = 12
"""The most regions tried for removal in a step: each costs a partition. A bound on the time to open a session, not
tuned."""


def left_by_prediction(model: Model, partitions: Partitions, shapes: Mapping[Value, Shape]) -> Placement:
    """The operations that are left to their nodes as the model is predicted to run fastest so, at these shapes."""
    greedy, coverage = partitions.without(()), partitions.coverage
    if not any(segment.is_region for segment in greedy):
        return Placement(set())
    costs = Costs(model, shapes)
    left, segments = _cheapest(partitions, costs, greedy)
    found, regions = costs.of(segments), sum(segment.is_region for segment in segments)
    gain, doubt = (GAIN, DOUBT) if regions > 1 else (ALONE, 0.0)
    if select_level() is not available_levels()[0]:
        gain = max(gain, BELOW)
    asked = (1 - gain) * costs.whole - doubt * found.cut
    pays = found.seconds <= asked and regions > 0
    if not pays:
        left = set(coverage.providers.values())
    doubted = f" and {doubt:.0%} of the cut's cost" if doubt else ""
    verdict = (
        f"predicted {found}, against {micro(costs.whole)} in onnxruntime alone less {gain:.0%}{doubted} asked for = "
        f"{micro(asked)}: {'in parts' if pays else 'whole in onnxruntime'}"
    )
    reasons: dict[Node, str] = {}
    for region in greedy:
        if region.is_region and any(operation in left for operation in region.operations):
            text = _told(costs, region, sum(one.is_region for one in greedy))
            reasons.update((n, text) for o in region.operations if o in left for n in o.nodes)
    decisions: dict[Operation, str] = {}
    for region in segments:
        if pays and region.is_region:
            decisions.update(dict.fromkeys(region.operations, _told(costs, region, regions)))
    return Placement(left, reasons, decisions, verdict)


def predicted_seconds(model: Model, sizes: Mapping[str, Shape], *, on_kernels: bool = False) -> float:
    """Seconds of a run by this CPU's table of rates, at these shapes of the inputs: in onnxruntime on one thread, or,
    `on_kernels`, as the cheaper of the cheapest partition and the whole in onnxruntime. Nothing is measured."""
    costs = Costs(model, shapes_for(model, sizes))
    if not on_kernels:
        return costs.whole
    partitions = Partitions(model.graph, lower(model.graph))
    return min(costs.whole, costs.of(_cheapest(partitions, costs, partitions.without(()))[1]).seconds)


def _cheapest(partitions: Partitions, costs: Costs, greedy: list[Segment]) -> tuple[set[Operation], list[Segment]]:
    """The cheapest candidate partition, without regions that cost more than they gain, and what it leaves."""
    left, segments = min(_candidates(partitions, costs, greedy), key=lambda candidate: costs.of(candidate[1]).seconds)
    while (better := _without_a_region(partitions, costs, left, segments)) is not None:
        left, segments = better
    return left, segments


def _told(costs: Costs, region: Segment, regions: int) -> str:
    """The prediction for one of `regions` regions, as a line of text."""
    kernels, stock = costs.of_region(region), costs.in_onnxruntime(region_nodes(region.operations))
    cold = BETWEEN.after(kernels) * cold_share(regions)
    return (
        f"predicted {micro(kernels)} on kernels + {micro(cold)} for cold caches + {SEGMENT * 1e-3:g} µs for its "
        f"borders = {micro(kernels + cold + SEGMENT * 1e-9)}, against {micro(stock)} in onnxruntime"
    )


def _candidates(
    partitions: Partitions, costs: Costs, greedy: list[Segment]
) -> Iterator[tuple[set[Operation], list[Segment]]]:
    """Candidate partitions, each with the operations that it leaves to their nodes."""
    yield set(), greedy
    seen: set[frozenset[Operation]] = {frozenset()}
    choices = _choices(greedy, costs)
    for price in _EDGES:
        away = choices.leaving(price * SEGMENT * 1e-9)
        if frozenset(away) not in seen:
            seen.add(frozenset(away))
            left = with_parts(partitions.coverage, away, greedy)
            yield left, partitions.without(left)


def _choices(segments: Sequence[Segment], costs: Costs) -> Choices[Operation]:
    """What each operation costs on kernels and in onnxruntime, and the edges between them and to nodes.

    A region's extra time by cold caches, the same region assumed in onnxruntime, is shared among its operations.
    """
    choices: Choices[Operation] = Choices()
    home: dict[Value, Operation | None] = {}  # None for the nodes
    for segment in segments:
        factors = [
            1 + cold.after(seconds) / seconds if seconds else 1.0
            for cold, seconds in (
                (CUT, costs.in_onnxruntime(region_nodes(segment.operations))),
                (BETWEEN, costs.of_region(segment) if segment.is_region else 0.0),
            )
        ]
        for unit in segment.units:
            here = unit if isinstance(unit, Operation) else None
            if here is not None:
                stock, kernels = costs.in_onnxruntime(here.nodes), costs.on_kernels(here)
                choices.add(here, stays=factors[1] * kernels, leaves=factors[0] * stock)
            for value in sources(unit):
                if value in home:
                    choices.connect(home[value], here)
            home.update(dict.fromkeys(results(unit), here))
    return choices


def _without_a_region(
    partitions: Partitions, costs: Costs, left: set[Operation], segments: list[Segment]
) -> tuple[set[Operation], list[Segment]] | None:
    """A cheaper partition in which one region is left to its nodes; None where there is none."""
    regions, now = [segment for segment in segments if segment.is_region], costs.of(segments).seconds
    coverage = partitions.coverage
    if len(left) >= len(coverage.providers) or len(regions) < 2:
        return None

    def gain(region: Segment) -> float:
        kernels = costs.of_region(region)
        return costs.in_onnxruntime(region_nodes(region.operations)) - kernels - BETWEEN.after(kernels)

    for region in sorted(regions, key=gain)[:_TRIES]:
        without = left | with_parts(coverage, region.operations, regions)
        parts = partitions.without(without)
        if costs.of(parts).seconds < now:
            return without, parts
    return None
