"""What pruning tells: one row a group, sizes and times before and after, layers that shrank but did not speed up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...analysis.channels import Channels
from ...compress.report import StageReport
from ...ir import Node
from ...measure import Figures, figures, node_macs
from .attempt import Attempt
from .select.allocation import Share, names_of, names_of_node
from .select.selection import unit

COLUMNS = ("channels of", "before", "after", "kept", "read by", "why not fewer")
_STALLED, _CHANNELS = 0.95, 8
"""A layer has stalled when it still takes this share of its time; vectors hold this many channels."""


def stage_report(
    found: Attempt, before: Figures, facts: Channels, times: Mapping[str, Any], notes: list[str], seconds: float
) -> StageReport:
    """The report of a model that was pruned."""
    after = figures(found.model)
    removed = found.removed / max(found.of, 1)
    parts = [
        f"{removed:.0%} of {found.of} channels removed",
        f"{after.parameters / max(before.parameters, 1):.0%} of the parameters and "
        f"{after.macs / max(before.macs, 1):.0%} of the multiply-accumulates left",
    ]
    if "speedup" in times:
        parts.append(f"{times['speedup']:.2f}x as fast")
    figures_told: dict[str, Any] = {
        "channels": found.of, "removed": found.removed, "parameters_before": before.parameters,
        "parameters_after": after.parameters, "macs_before": before.macs, "macs_after": after.macs, **times,
        "refitted": [
            {"layer": label(r.node), "error_before": r.before, "error_after": r.after} for r in found.recovery.refits
        ],
        "notes": notes,
    }  # fmt: skip
    return StageReport(
        "prune", ", ".join([*parts, *notes]), COLUMNS, tuple(_row(share) for share in found.shares), figures_told,
        (*_refused(facts, found.shares), *_not_refitted(found)), seconds,
    )  # fmt: skip


def _row(share: Share) -> tuple[Any, ...]:
    group, width = share.group, unit(share.group)
    readers = ", ".join(label(layer.node) for layer in group.readers[:3]) + (" …" if len(group.readers) > 3 else "")
    makers = [layer for layer in group.makers if layer.kind != "depthwise"] or list(group.makers)
    made = ", ".join(label(layer.node) for layer in makers[:3]) + (" …" if len(makers) > 3 else "")
    kept = f"{share.kept / group.size:.0%}"
    return made, group.size * width, share.kept * width, kept, readers, share.why


def _refused(facts: Channels, shares: list[Share]) -> list[tuple[str, str]]:
    told = [(label(held.node), held.why) for held in facts.held]
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
) -> list[dict[str, Any]]:
    """Layers with fewer multiply-accumulates that take as long as ever, and what can be said of why."""
    found = []
    for node, seconds in after.items():
        twin = twins.get(node)
        if twin is None or twin not in before or not node_macs(twin) or node_macs(node) >= node_macs(twin):
            continue
        if seconds < _STALLED * before[twin]:
            continue
        found.append(
            {
                "layer": label(node), "macs": node_macs(node) / node_macs(twin), "time": seconds / before[twin],
                "why": _why(node, seconds),
            }
        )  # fmt: skip
    return found


def _why(node: Node, seconds: float) -> str:
    weight = node.constant(1)
    widths = () if weight is None else weight.shape[:2]
    if any(width > 1 and width % _CHANNELS for width in widths):
        return f"a width of {' or '.join(map(str, widths))} does not fill vectors of {_CHANNELS}"
    if seconds < 20e-6:
        return "it is so small that calling it takes most of its time"
    return "moving its data takes most of its time"


def unchanged(reason: str, facts: Channels, seconds: float, figures_told: dict[str, Any] | None = None) -> StageReport:
    """The report of a model that was handed back as it came."""
    refused = tuple((label(held.node), held.why) for held in facts.held)
    return StageReport("prune", reason, figures=figures_told, refused=refused, seconds=seconds, changed=False)
