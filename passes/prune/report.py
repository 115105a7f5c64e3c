"""The report of pruning: one row a group, sizes and times before and after, layers that shrank but are no faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ...analysis.channels import ChannelFacts, WeightedLayer
from ...compress.report import Cell, LayerReport, StageFigures, StageReport
from ...ir import Node
from ...measure import Figures, figures, macs_text, node_macs
from .pruned_model import PrunedModel
from .select.allocation import Allocation, names_of, names_of_node
from .select.selection import positions_per_class

_STALLED = 0.95
"""The share of its former time from which a layer counts as no faster: 5 % allow for noise, a choice. Only reported;
`python -m tests.bench.prune_speed speed` shows whole models."""
_VECTOR = 8
"""Floats in a vector of AVX2, which onnxruntime's kernels fill with channels."""
_CALL_SECONDS = 20e-6
"""Seconds below which a node's call overhead outweighs its work. An estimate, for the report's words only."""


@dataclass(frozen=True, slots=True)
class PrunedGroup(LayerReport):
    """A channel group.

    makers, readers: names of the layers that produce the channels and that read them. before, after: the number of
    channels. kept: after / before as text. reason: why no more were removed, "" for none.
    """

    makers: str
    before: int
    after: int
    kept: str
    readers: str
    reason: str

    def cells(self) -> dict[str, Cell]:
        """A row of the report's table."""
        return {
            "channels of": self.makers, "before": self.before, "after": self.after, "kept": self.kept,
            "read by": self.readers, "why not fewer": self.reason,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class StalledLayer:
    """A layer with fewer multiply-accumulates that is no faster: its MACs and time as shares of the original's."""

    layer: str
    macs: float
    time: float
    why: str


@dataclass(frozen=True, slots=True)
class RefittedLayer:
    """A refitted layer, with its error relative to the energy of its outputs before and after; None on made-up
    inputs."""

    layer: str
    error_before: float | None
    error_after: float | None


@dataclass(frozen=True, slots=True)
class PruneFigures(StageFigures):
    """Seconds of one run in one thread before and after, None where not timed, and their ratio, None where not clear;
    the other figures only for a pruned model."""

    seconds_before: float | None = None
    seconds_after: float | None = None
    speedup: float | None = None
    stalled: tuple[StalledLayer, ...] = ()
    channels: int | None = None
    removed: int | None = None
    parameters_before: int | None = None
    parameters_after: int | None = None
    macs_before: int | None = None
    macs_after: int | None = None
    refitted: tuple[RefittedLayer, ...] = ()
    notes: tuple[str, ...] = ()


def stage_report(
    pruned: PrunedModel, before: Figures, facts: ChannelFacts, times: PruneFigures, notes: list[str], seconds: float,
    is_synthetic: bool = False,
) -> StageReport:  # fmt: skip
    """The report of a model that was pruned. `is_synthetic`: layers were refitted on made-up inputs."""
    after = figures(pruned.model)
    macs = macs_text(before, after).counts
    share = "" if macs is None else f" and {macs[1] / max(macs[0], 1):.0%} of the multiply-accumulates"
    parts = [
        f"{pruned.removed / max(pruned.total, 1):.0%} of {pruned.total} channels removed",
        f"{after.parameters / max(before.parameters, 1):.0%} of the parameters{share} left",
    ]
    if times.seconds_before is not None:
        parts.append("no clear change of speed" if times.speedup is None else f"{times.speedup:.2f}x as fast")
    stage_figures = replace(
        times, channels=pruned.total, removed=pruned.removed, parameters_before=before.parameters,
        parameters_after=after.parameters, macs_before=before.macs, macs_after=after.macs,
        refitted=tuple(
            RefittedLayer(label(r.node), *((None, None) if is_synthetic else (r.before, r.after)))
            for r in pruned.recovery.refits
        ),
        notes=tuple(notes),
    )  # fmt: skip
    return StageReport(
        "prune", ", ".join([*parts, *notes]), tuple(_row(one) for one in pruned.allocations), stage_figures,
        tuple(_refused(facts, pruned)), seconds, fitted="refitted weights" if pruned.recovery.refits else "",
    )  # fmt: skip


def _row(allocation: Allocation) -> PrunedGroup:
    group = allocation.group
    width, kept = positions_per_class(group), f"{allocation.kept / group.size:.0%}"
    makers = [layer for layer in group.makers if layer.kind != "depthwise"] or group.makers
    readers = _labels(group.readers)
    return PrunedGroup(
        _labels(makers) or f"inputs of {readers}", group.size * width, allocation.kept * width, kept, readers,
        allocation.reason,
    )  # fmt: skip


def _labels(layers: Sequence[WeightedLayer]) -> str:
    return ", ".join(label(layer.node) for layer in layers[:3]) + (" …" if len(layers) > 3 else "")


def _refused(facts: ChannelFacts, pruned: PrunedModel) -> Iterator[tuple[str, str]]:
    for layer in facts.fixed:
        yield label(layer.node), layer.reason
    for one in pruned.allocations:
        if one.reason:
            yield next(iter(names_of(one.group)), "?"), one.reason
    for unfitted in pruned.recovery.unfitted:
        yield label(unfitted.node), f"not refitted: {unfitted.reason}"


def label(node: Node) -> str:
    """The name by which reports call a node."""
    return next(iter(names_of_node(node)), node.op)


def stalled(
    before: Mapping[Node, float], after: Mapping[Node, float], originals: Mapping[Node, Node]
) -> tuple[StalledLayer, ...]:
    """Layers with fewer multiply-accumulates that are no faster, and the likely reason."""
    layers = []
    for node, seconds in after.items():
        original = originals.get(node)
        if original is None or original not in before or not node_macs(original):
            continue
        if node_macs(node) < node_macs(original) and seconds >= _STALLED * before[original]:
            macs, time = node_macs(node) / node_macs(original), seconds / before[original]
            layers.append(StalledLayer(label(node), macs, time, _why(node, original, seconds)))
    return tuple(layers)


def _why(node: Node, original: Node, seconds: float) -> str:
    weight, whole = node.constant(1), original.constant(1)
    sizes = () if weight is None or whole is None else zip(weight.shape, whole.shape)
    widths = [now for now, before in sizes if now < before]
    if any(width > 1 and width % _VECTOR for width in widths):
        return f"a width of {' or '.join(map(str, widths))} does not fill vectors of {_VECTOR}"
    if seconds < _CALL_SECONDS:
        return "it is so small that calling it takes most of its time"
    return "moving its data takes most of its time"


def unchanged(reason: str, facts: ChannelFacts, seconds: float, times: PruneFigures | None = None) -> StageReport:
    """The report of a model returned unchanged."""
    refused = tuple((label(layer.node), layer.reason) for layer in facts.fixed)
    return StageReport("prune", reason, facts=times, refused=refused, seconds=seconds, changed=False)
