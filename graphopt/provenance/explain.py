"""What the record says of one node, for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from ..errors import InputError
from ..ir import Graph, Node
from .record import Gone, Kept, Provenance, Step

if TYPE_CHECKING:
    from rich.table import Table

_LISTED = 12


def explanation(found: Provenance, graph: Graph, name: str) -> list[str]:
    """What is known of the node, value or original node called `name`, line by line. InputError if nothing is.

    `graph` is the optimised model as lifted from its file. A node that goes by a name in both models is told as the
    optimised model has it, then as the original had it.
    """
    lines: list[str] = []
    for node in graph.walk():
        output = next((v.name for v in node.outputs if v.name), "")
        if name == node.name or any(name == v.name for v in node.outputs):
            lines += _of_node(found, node, output)
    if name in found.original and name not in _direct_sources(found, graph, name):
        lines += _of_original(found, name)
    if not lines:
        known = [*found.original, *(n.name for n in graph.walk() if n.name), *found.nodes]
        near = get_close_matches(name, known, 3)
        hint = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
        raise InputError(f"neither model has a node or value {name!r}{hint}")
    return lines


def _direct_sources(found: Provenance, graph: Graph, name: str) -> set[str]:
    """Original nodes that were told already, as sources of what goes by that name."""
    told: set[str] = set()
    for node in graph.walk():
        output = next((v.name for v in node.outputs if v.name), "")
        if output in found.nodes and (name == node.name or any(name == v.name for v in node.outputs)):
            told.update(found.nodes[output].sources)
    return told


def _of_node(found: Provenance, node: Node, output: str) -> Iterator[str]:
    title = f"{node.op} {node.name}".strip()
    yield f"{title} computes {output}"
    kept = found.nodes.get(output)
    if kept is None:
        yield "  unknown to the provenance: the file was changed after it was optimised"
        return
    yield f"  {origin_line(found, kept)}"
    yield from _steps(found, found.history(kept.sources))


def origin_line(found: Provenance, kept: Kept) -> str:
    """Where a node comes from, in one line."""
    sources = ", ".join(f"{name} ({found.original.get(name, '?')})" for name in kept.sources[:_LISTED])
    more = f" and {len(kept.sources) - _LISTED} more" if len(kept.sources) > _LISTED else ""
    if kept.by == "emit":
        return "made when the file was written, to give a result its name" + (f"; from {sources}" if sources else "")
    if not kept.by and len(kept.sources) > 1:
        return f"an original node that stands for {sources}{more}"
    if not kept.by:
        changed = bool(found.history(kept.sources))
        return f"{'from the original, changed in place' if changed else 'as in the original'}: {sources}"
    if not sources:
        return f"made by {kept.by} from inputs and constants alone"
    return f"made by {kept.by} from {sources}{more}"


def _of_original(found: Provenance, name: str) -> Iterator[str]:
    yield f"{found.original[name]} {name} of the original"
    heirs = found.heirs(name)
    if heirs:
        parts = [f"{found.nodes[h].op} → {h}" for h in heirs[:_LISTED]]
        yield f"  lives on in {', '.join(parts)}"
        yield from _steps(found, found.history((name,)))
        return
    yield f"  {gone_line(found, name, found.gone[name])}"
    how = found.gone[name]
    yield from _steps(found, () if how.step is None else (found.steps[how.step],))


def gone_line(found: Provenance, name: str, how: Gone) -> str:
    """Why an original node is no more, in one line."""
    if not how.by:
        return "gone; the log does not tell how"
    step = None if how.step is None else found.steps[how.step]
    if step is None:
        return f"removed by {how.by}"
    if name in step.nodes:
        return f"removed by {how.by}: {step.rewrite}"
    return f"removed by {how.by} with {', '.join(step.nodes[:3])}: nobody else read its result"


def _steps(found: Provenance, steps: tuple[Step, ...]) -> Iterator[str]:
    for step in steps[:_LISTED]:
        note = found.notes.get(step.rewrite) or found.notes.get(step.by, "")
        what = step.by if step.rewrite in ("", step.by) else f"{step.by} · {step.rewrite}"
        yield f"  - {what} at {', '.join(step.nodes[:3])}" + (f": {note}" if note else "")
    if len(steps) > _LISTED:
        yield f"  - and {len(steps) - _LISTED} more"


def overview(found: Provenance) -> Table:
    """Every change, summed up by pass: what was merged or made anew, and what went."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("what became of the original", "nodes", "operators"):
        table.add_column(heading, justify="right" if heading == "nodes" else "left")
    same = [k for k in found.nodes.values() if not k.by]
    if same:
        table.add_row("kept as they were", str(len(same)), _ops(Counter(k.op for k in same)), style="dim")
    for by, made in _grouped(found.nodes).items():
        before = Counter(found.original.get(s, "?") for k in made for s in k.sources)
        after = Counter(k.op for k in made)
        table.add_row(f"made by {by}", str(len(made)), f"{_ops(before)} → {_ops(after)}")
    gone: dict[str, Counter[str]] = {}
    for name, how in found.gone.items():
        gone.setdefault(how.by or "unknown", Counter())[found.original[name]] += 1
    for by, ops in gone.items():
        table.add_row(f"removed by {by}", str(ops.total()), _ops(ops))
    return table


def _grouped(nodes: Mapping[str, Kept]) -> dict[str, list[Kept]]:
    groups: dict[str, list[Kept]] = {}
    for kept in nodes.values():
        if kept.by:
            groups.setdefault(kept.by, []).append(kept)
    return groups


def _ops(counts: Counter[str]) -> str:
    shown = ", ".join(f"{op} ×{n}" if n > 1 else op for op, n in counts.most_common(5))
    return shown + (f" and {len(counts) - 5} other kinds" if len(counts) > 5 else "")
