"""The history of one node, and a summary of all nodes, for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..ir import Graph, Node
from .record import Origin, Provenance, Removal, Step

if TYPE_CHECKING:
    from rich.table import Table

_LISTED = 12  # the most names in a terminal line; the rest is counted


def explanation(provenance: Provenance, graph: Graph, name: str) -> list[str]:
    """The history of the node, value or original node called `name`, line by line. InputError for unknown names.

    `graph` is the optimised model as lifted from its file. For a name that both models have, the optimised model's node
    comes first, then the original's.
    """
    lines: list[str] = []
    for node in graph.walk():
        output = next((v.name for v in node.outputs if v.name), "")
        if name == node.name or any(name == v.name for v in node.outputs):
            lines += _of_node(provenance, node, output)
    if name in provenance.original and name not in _direct_sources(provenance, graph, name):
        lines += _of_original(provenance, name)
    if not lines:
        known = [*provenance.original, *(n.name for n in graph.walk() if n.name), *provenance.nodes]
        near = get_close_matches(name, known, 3)
        hint = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
        raise InputError(f"neither model has a node or value {name!r}{hint}")
    return lines


def history_of(provenance: Provenance, graph: Graph, name: str) -> dict[str, Any]:
    """The content of `explanation` as plain data for JSON. InputError for unknown names.

    nodes: of the optimized model called `name`, with operator, value, creating pass, sources and steps; original: the
    original node of that name with its descendants or its removal, None where the nodes' own history names it.
    """
    explanation(provenance, graph, name)  # the error suggests the nearest name
    nodes = []
    for node in graph.walk():
        output = next((v.name for v in node.outputs if v.name), "")
        if name == node.name or any(name == v.name for v in node.outputs):
            origin = provenance.nodes.get(output)
            sources = () if origin is None else origin.sources
            nodes.append({
                "op": node.op, "name": node.name, "value": output, "by": None if origin is None else origin.by,
                "sources": {source: provenance.original.get(source) for source in sources},
                "steps": _plain_steps(provenance, provenance.history(sources)),
            })  # fmt: skip
    original = None
    if name in provenance.original and name not in _direct_sources(provenance, graph, name):
        gone = None if provenance.heirs(name) else provenance.gone[name]
        original = {
            "op": provenance.original[name], "name": name, "heirs": list(provenance.heirs(name)),
            "removed": None if gone is None else removal_line(provenance, name, gone),
            "steps": _plain_steps(provenance, provenance.history((name,))),
        }  # fmt: skip
    return {"name": name, "nodes": nodes, "original": original}


def _plain_steps(provenance: Provenance, steps: tuple[Step, ...]) -> list[dict[str, Any]]:
    return [
        {"pass": step.by, "rewrite": step.rewrite, "nodes": list(step.nodes), "effect": provenance.note_on(step)}
        for step in steps
    ]


def summary(provenance: Provenance) -> dict[str, Any]:
    """The content of `overview` as plain data for JSON: nodes kept, created and removed, by pass and operator."""
    made = {
        by: {
            "nodes": len(group), "to": dict(Counter(k.op for k in group)),
            "from": dict(Counter(provenance.original.get(s, "?") for k in group for s in k.sources)),
        }
        for by, group in _grouped(provenance.nodes).items()
    }  # fmt: skip
    removed: dict[str, Counter[str]] = {}
    for name, removal in provenance.gone.items():
        removed.setdefault(removal.by or "unknown", Counter())[provenance.original[name]] += 1
    kept = Counter(origin.op for origin in provenance.nodes.values() if not origin.by)
    return {"kept": dict(kept), "made": made, "removed": {by: dict(ops) for by, ops in removed.items()}}


def _direct_sources(provenance: Provenance, graph: Graph, name: str) -> set[str]:
    """The sources of the optimized model's nodes called `name`, which their own history already names."""
    sources: set[str] = set()
    for node in graph.walk():
        output = next((v.name for v in node.outputs if v.name), "")
        if output in provenance.nodes and (name == node.name or any(name == v.name for v in node.outputs)):
            sources.update(provenance.nodes[output].sources)
    return sources


def _of_node(provenance: Provenance, node: Node, output: str) -> Iterator[str]:
    title = f"{node.op} {node.name}".strip()
    yield f"{title} computes {output}"
    origin = provenance.nodes.get(output)
    if origin is None:
        yield "  unknown to the provenance: the file was changed after it was optimised"
        return
    yield f"  {origin_line(provenance, origin)}"
    yield from _steps(provenance, provenance.history(origin.sources))


def origin_line(provenance: Provenance, origin: Origin) -> str:
    """The origin of a node in one line."""
    sources = ", ".join(f"{name} ({provenance.original.get(name, '?')})" for name in origin.sources[:_LISTED])
    more = f" and {len(origin.sources) - _LISTED} more" if len(origin.sources) > _LISTED else ""
    if origin.by == "emit":
        return "made when the file was written, to give a result its name" + (f"; from {sources}" if sources else "")
    if not origin.by and len(origin.sources) > 1:
        return f"an original node that stands for {sources}{more}"
    if not origin.by:
        changed = bool(provenance.history(origin.sources))
        return f"{'from the original, changed in place' if changed else 'as in the original'}: {sources}"
    if not sources:
        return f"made by {origin.by} from inputs and constants alone"
    return f"made by {origin.by} from {sources}{more}"


def _of_original(provenance: Provenance, name: str) -> Iterator[str]:
    yield f"{provenance.original[name]} {name} of the original"
    heirs = provenance.heirs(name)
    if heirs:
        parts = [f"{provenance.nodes[h].op} → {h}" for h in heirs[:_LISTED]]
        yield f"  lives on in {', '.join(parts)}"
        yield from _steps(provenance, provenance.history((name,)))
        return
    yield f"  {removal_line(provenance, name, provenance.gone[name])}"
    step = provenance.gone[name].step
    yield from _steps(provenance, () if step is None else (provenance.steps[step],))


def removal_line(provenance: Provenance, name: str, removal: Removal) -> str:
    """The removal of an original node in one line."""
    if not removal.by:
        return "gone; the log does not tell how"
    step = None if removal.step is None else provenance.steps[removal.step]
    if step is None:
        return f"removed by {removal.by}"
    if name in step.nodes:
        return f"removed by {removal.by}: {step.rewrite}"
    return f"removed by {removal.by} with {', '.join(step.nodes[:3])}: nobody else read its result"


def _steps(provenance: Provenance, steps: tuple[Step, ...]) -> Iterator[str]:
    for step in steps[:_LISTED]:
        note = provenance.note_on(step)
        yield f"  - {step.title} at {', '.join(step.nodes[:3])}" + (f": {note}" if note else "")
    if len(steps) > _LISTED:
        yield f"  - and {len(steps) - _LISTED} more"


def overview(provenance: Provenance) -> Table:
    """All changes by pass: nodes merged or created, and nodes removed."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("what became of the original", "nodes", "operators"):
        table.add_column(heading, justify="right" if heading == "nodes" else "left")
    same = [k for k in provenance.nodes.values() if not k.by]
    if same:
        table.add_row("kept as they were", str(len(same)), _ops(Counter(k.op for k in same)), style="dim")
    for by, group in _grouped(provenance.nodes).items():
        before = Counter(provenance.original.get(s, "?") for k in group for s in k.sources)
        after = Counter(k.op for k in group)
        table.add_row(f"made by {by}", str(len(group)), f"{_ops(before)} → {_ops(after)}")
    gone: dict[str, Counter[str]] = {}
    for name, removal in provenance.gone.items():
        gone.setdefault(removal.by or "unknown", Counter())[provenance.original[name]] += 1
    for by, ops in gone.items():
        table.add_row(f"removed by {by}", str(ops.total()), _ops(ops))
    return table


def _grouped(nodes: Mapping[str, Origin]) -> dict[str, list[Origin]]:
    groups: dict[str, list[Origin]] = {}
    for origin in nodes.values():
        if origin.by:
            groups.setdefault(origin.by, []).append(origin)
    return groups


def _ops(counts: Counter[str]) -> str:
    shown = ", ".join(f"{op} ×{n}" if n > 1 else op for op, n in counts.most_common(5))
    return shown + (f" and {len(counts) - 5} other kinds" if len(counts) > 5 else "")
