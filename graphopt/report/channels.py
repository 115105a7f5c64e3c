"""Channel groups of a model as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..analysis.channels import NEIGHBOURS, RANGE, STATISTICS, ChannelFacts, ChannelGroup, find_channels
from ..ir import Model, Node, clone_model
from ..passes.prune.cut.remove import unshare
from ..passes.prune.report import label
from ..passes.prune.select.selection import positions_per_class

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN = 4
"""Names listed in a cell before the rest is counted."""
_APPROXIMATE = {
    NEIGHBOURS: "not exact: a normalisation looks at neighbouring channels",
    STATISTICS: "not exact: statistics over them are estimated from the kept ones (statistics=True)",
    RANGE: "exact but for rounding: the range measured while running is that of the kept ones",
}


def channel_tables(model: Model) -> Iterator[RenderableType]:
    """The channel groups of a model, then the layers with channels that cannot be removed, and why."""
    from rich.table import Table

    unshared = clone_model(model)
    unshare(unshared)
    facts = find_channels(unshared)
    groups = Table(title=f"{len(facts.groups)} channel groups", box=None, pad_edge=False, header_style="bold")
    for heading in ("", "channels", "made by", "read by", "remarks"):
        groups.add_column(heading, justify="right" if heading in ("", "channels") else "left", overflow="fold")
    for number, group in enumerate(facts.groups):
        makers = [layer.node for layer in group.makers if layer.kind != "depthwise"]
        readers = [*(layer.node for layer in group.readers), *(product.node for product in group.products)]
        groups.add_row(str(number), _width(group), _names(makers), _names(readers), "; ".join(_remarks(group)))
    yield groups
    if facts.fixed:
        yield _fixed_layers(facts)


def _width(group: ChannelGroup) -> str:
    width = positions_per_class(group)
    return str(group.size) if width == 1 else f"{group.size} x {width}"


def _names(nodes: list[Node]) -> str:
    from rich.markup import escape

    names = [escape(label(node)) for node in nodes[:_SHOWN]]
    return ", ".join([*names, f"and {len(nodes) - _SHOWN} more"] if len(nodes) > _SHOWN else names)


def _remarks(group: ChannelGroup) -> Iterator[str]:
    through = [layer.node for layer in group.makers if layer.kind == "depthwise"]
    if through:
        yield f"through {_names(through)}"
    parts = sorted({len(partition) for partition in group.partitions})
    if parts:
        yield f"equally many in each of {' and '.join(map(str, parts))} parts"
    if group.selections:
        yield "picked from channels that stay (select=True)"
    yield from (_APPROXIMATE[kind] for kind in group.approximate)


def _fixed_layers(facts: ChannelFacts) -> RenderableType:
    from rich.table import Table

    table = Table(title="channels that stay", box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("why", overflow="fold")
    for layer in facts.fixed:
        table.add_row(label(layer.node), f"{layer.channels} of {layer.of}", layer.reason)
    return table
