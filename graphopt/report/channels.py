"""Channel groups as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..analysis.channels import NEIGHBOURS, RANGE, STATISTICS, ChannelFacts, ChannelGroup, find_channels
from ..ir import Model, Node, clone_model
from ..passes.prune.cut.remove import unshare
from ..passes.prune.report import label
from ..passes.prune.select.selection import unit

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN = 4
_APPROXIMATE = {
    NEIGHBOURS: "not exact: a normalisation looks at neighbouring channels",
    STATISTICS: "not exact: statistics over them are estimated from the kept ones (statistics=True)",
    RANGE: "exact but for rounding: the range measured while running is that of the kept ones",
}


def channel_tables(model: Model) -> Iterator[RenderableType]:
    """The groups of a model, then the layers whose channels stay and why."""
    from rich.table import Table

    apart = clone_model(model)
    unshare(apart)
    facts = find_channels(apart)
    groups = Table(title=f"{len(facts.groups)} channel groups", box=None, pad_edge=False, header_style="bold")
    for heading in ("", "channels", "made by", "read by", "remarks"):
        groups.add_column(heading, justify="right" if heading in ("", "channels") else "left", overflow="fold")
    for number, group in enumerate(facts.groups):
        made = [layer.node for layer in group.makers if layer.kind != "depthwise"]
        read = [*(layer.node for layer in group.readers), *(product.node for product in group.products)]
        groups.add_row(str(number), _width(group), _names(made), _names(read), "; ".join(_remarks(group)))
    yield groups
    if facts.fixed:
        yield _held(facts)


def _width(group: ChannelGroup) -> str:
    width = unit(group)
    return str(group.size) if width == 1 else f"{group.size} x {width}"


def _names(nodes: list[Node]) -> str:
    names = [label(node) for node in nodes[:_SHOWN]]
    return ", ".join([*names, f"and {len(nodes) - _SHOWN} more"] if len(nodes) > _SHOWN else names)


def _remarks(group: ChannelGroup) -> Iterator[str]:
    through = [layer.node for layer in group.makers if layer.kind == "depthwise"]
    if through:
        yield f"through {_names(through)}"
    parts = sorted({len(partition.parts) for partition in group.partitions})
    if parts:
        yield f"equally many in each of {' and '.join(map(str, parts))} parts"
    if group.selections:
        yield "picked from channels that stay (select=True)"
    yield from (_APPROXIMATE[kind] for kind in group.approximate)


def _held(facts: ChannelFacts) -> RenderableType:
    from rich.table import Table

    table = Table(title="channels that stay", box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("why", overflow="fold")
    for held in facts.fixed:
        table.add_row(label(held.node), f"{held.channels} of {held.of}", held.reason)
    return table
