"""What pruning tells: one row a group, sizes and times before and after, layers that shrank but did not speed up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ...analysis.channels import ChannelFacts
from ...compress.report import Cell, LayerReport, StageFigures, StageReport
from ...ir import Node
from ...measure import Figures, figures
from ...measure.figures import node_macs
from .pruned_model import Attempt
from .select.allocation import Share, names_of, names_of_node
from .select.selection import unit

_STALLED, _CHANNELS = 0.95, 8
"""A layer has stalled when it still takes this share of its time; vectors hold this many channels."""


@dataclass(frozen=True, slots=True)
class PrunedGroup(LayerReport):
    """Channels that layers share.

    makers, readers: names of the layers that make and that read them. before, after: how many there are. kept: the
    share of them in words. reason: why no more were removed, "" where nothing stood against it.
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
    """A layer with fewer multiply-accumulates that takes as long as ever; both are shares of what they were."""

    layer: str
    macs: float
    time: float
    why: str


@dataclass(frozen=True, slots=True)
class RefittedLayer:
    """A layer whose weights were fitted anew, with its relative error before and after."""

    layer: str
    error_before: float
    error_after: float


@dataclass(frozen=True, slots=True)
class PruneFigures(StageFigures):
    """Seconds of one run before and after, and where channels went their number and the model's size."""

    seconds_before: float
    seconds_after: float
    speedup: float
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
    found: Attempt, before: Figures, facts: ChannelFacts, times: PruneFigures, notes: list[str], seconds: float
) -> StageReport:
    """The report of a model that was pruned."""
    after = figures(found.model)
    removed = found.removed / max(found.of, 1)
    parts = [
        f"{removed:.0%} of {found.of} channels removed",
        f"{after.parameters / max(before.parameters, 1):.0%} of the parameters and "
        f"{after.macs / max(before.macs, 1):.0%} of the multiply-accumulates left",
    ]
    parts.append(f"{times.speedup:.2f}x as fast")
    told = replace(
        times, channels=found.of, removed=found.removed, parameters_before=before.parameters,
        parameters_after=after.parameters, macs_before=before.macs, macs_after=after.macs,
        refitted=tuple(RefittedLayer(label(r.node), r.before, r.after) for r in found.recovery.refits),
        notes=tuple(notes),
    )  # fmt: skip
    return StageReport(
        "prune", ", ".join([*parts, *notes]), tuple(_row(share) for share in found.shares), told,
        (*_refused(facts, found.shares), *_not_refitted(found)), seconds,
    )  # fmt: skip


def _row(share: Share) -> PrunedGroup:
    group, width = share.group, unit(share.group)
    readers = ", ".join(label(layer.node) for layer in group.readers[:3]) + (" …" if len(group.readers) > 3 else "")
    makers = [layer for layer in group.makers if layer.kind != "depthwise"] or list(group.makers)
    made = ", ".join(label(layer.node) for layer in makers[:3]) + (" …" if len(makers) > 3 else "")
    kept = f"{share.kept / group.size:.0%}"
    return PrunedGroup(made, group.size * width, share.kept * width, kept, readers, share.why)


def _refused(facts: ChannelFacts, shares: list[Share]) -> list[tuple[str, str]]:
    told = [(label(layer.node), layer.reason) for layer in facts.fixed]
    told += [(next(iter(names_of(share.group)), "?"), share.why) for share in shares if share.why]
    return told


def _not_refitted(found: Attempt) -> Iterator[tuple[str, str]]:
    for one in found.recovery.unfitted:
        yield label(one.node), f"not refitted: {one.why}"


def label(node: Node) -> str:
    """The name a node is told by."""
    return next(iter(names_of_node(node)), node.op)


def stalled(
    before: Mapping[Node, float], after: Mapping[Node, float], twins: Mapping[Node, Node]
) -> tuple[StalledLayer, ...]:
    """Layers with fewer multiply-accumulates that take as long as ever, and what can be said of why."""
    found = []
    for node, seconds in after.items():
        twin = twins.get(node)
        if twin is None or twin not in before or not node_macs(twin) or node_macs(node) >= node_macs(twin):
            continue
        if seconds < _STALLED * before[twin]:
            continue
        macs, time = node_macs(node) / node_macs(twin), seconds / before[twin]
        found.append(StalledLayer(label(node), macs, time, _why(node, seconds)))
    return tuple(found)


def _why(node: Node, seconds: float) -> str:
    weight = node.constant(1)
    widths = () if weight is None else weight.shape[:2]
    if any(width > 1 and width % _CHANNELS for width in widths):
        return f"a width of {' or '.join(map(str, widths))} does not fill vectors of {_CHANNELS}"
    if seconds < 20e-6:
        return "it is so small that calling it takes most of its time"
    return "moving its data takes most of its time"


def unchanged(reason: str, facts: ChannelFacts, seconds: float, times: PruneFigures | None = None) -> StageReport:
    """The report of a model that was handed back as it came."""
    refused = tuple((label(layer.node), layer.reason) for layer in facts.fixed)
    return StageReport("prune", reason, facts=times, refused=refused, seconds=seconds, changed=False)
