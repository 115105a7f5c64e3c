"""The graphs before and after as data for the page's viewer: boxes, lines, colours by pass, and each node's history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...ir import Graph, Node, TensorType, captures, node_lines
from ...measure import node_macs
from ...provenance import Provenance, Trail
from ...provenance.derive import file_names
from ...provenance.explain import origin_line, removal_line
from .layout import Layout, arrange

MOST = 2500
"""The most nodes drawn per model, which keeps a page below 3 MB: `python -m tests.bench.report` prints sizes."""

_TEXT, _STEPS, _SYMBOL = 300, 12, 3
"""Characters of a node's IR text, entries of a list in its history, characters of a symbolic size in its box."""

History = dict[str, Any]
"""A node's history for the viewer. w: its origin or removal in one line; s: indices of steps; c: index of the pass
whose color it has, -1 for none; r: names of its sources, or of its descendants, in the other graph."""


def drawings(trail: Trail) -> dict[str, Any]:
    """Both models for the viewer.

    passes: names, in the order of their colours. steps: title and explanation of each rewrite. before, after: graphs,
    the root first, each with its nodes and the index of the first one that multiplies (-1 for none); omitted: how many
    nodes were left out on each side.
    """
    provenance = trail.provenance
    index = _HistoryIndex(provenance)
    names = file_names(trail.result)
    before, left = _side(trail.original.graph, lambda n: n.origins[0] if n.origins else n.name, index.of_original)
    after, right = _side(trail.result.graph, lambda n: names.get(n, n.name), index.of_result)
    steps = [(step.title, provenance.note_on(step)) for step in provenance.steps]
    return {"passes": index.passes, "steps": steps, "before": before, "after": after, "omitted": [left, right]}


class _HistoryIndex:
    """Histories by node, from an index instead of a search of the provenance for each."""

    def __init__(self, provenance: Provenance) -> None:
        self.provenance = provenance
        self.heirs: dict[str, list[str]] = {}
        self.steps: dict[str, list[int]] = {}
        for output, kept in provenance.nodes.items():
            for source in kept.sources:
                self.heirs.setdefault(source, []).append(output)
        for i, step in enumerate(provenance.steps):
            for name in step.nodes:
                self.steps.setdefault(name, []).append(i)
        used = dict.fromkeys([k.by for k in provenance.nodes.values()] + [g.by for g in provenance.gone.values()])
        self.passes = [name for name in used if name not in ("", "emit")]
        self.colours = {name: i for i, name in enumerate(self.passes)}

    def of_original(self, name: str) -> History:
        """The fate of a node of the original: removed, kept, or living on in other nodes."""
        how = self.provenance.gone.get(name)
        if how is not None:
            return {
                "w": removal_line(self.provenance, name, how), "s": [] if how.step is None else [how.step],
                "c": self.colours.get(how.by, -1), "gone": 1,
            }  # fmt: skip
        heirs = self.heirs.get(name, [])
        makers = [kept.by for heir in heirs if (kept := self.provenance.nodes[heir]).by]
        same = "lives on" if makers else "kept"
        colour = self.colours.get(makers[0], -1) if makers else -1
        return {"w": same, "s": self.steps.get(name, [])[:_STEPS], "c": colour, "r": heirs[:_STEPS]}

    def of_result(self, name: str) -> History:
        """The origin of a node of the result."""
        kept = self.provenance.nodes.get(name)
        if kept is None:
            return {"w": "", "s": [], "c": -1}
        steps = sorted({i for source in kept.sources for i in self.steps.get(source, ())})
        return {
            "w": origin_line(self.provenance, kept), "s": steps[:_STEPS], "c": self.colours.get(kept.by, -1),
            "r": list(kept.sources[:_STEPS]),
        }  # fmt: skip


def _side(
    root: Graph, name_of: Callable[[Node], str], history_of: Callable[[str], History]
) -> tuple[list[dict[str, Any]], int]:
    """The graphs of one model, and how many nodes were left out."""
    drawn: list[dict[str, Any]] = []
    room, omitted = MOST, 0
    for title, graph in _titled(root, "main"):
        nodes = graph.snapshot()
        shown = nodes[:room]
        room -= len(shown)
        omitted += len(nodes) - len(shown)
        if shown:
            drawn.append(_graph(title, graph, shown, name_of, history_of))
    return drawn, omitted


def _titled(graph: Graph, title: str) -> Iterator[tuple[str, Graph]]:
    yield title, graph
    for node in graph:
        for attribute, value in node.attrs.items():
            for nested in value if isinstance(value, tuple) else (value,):
                if isinstance(nested, Graph):
                    yield from _titled(nested, f"{attribute} of {node.name or node.op}")


def _graph(
    title: str, graph: Graph, nodes: list[Node], name_of: Callable[[Node], str], history_of: Callable[[str], History]
) -> dict[str, Any]:
    hidden = _conversions(nodes)
    nodes = [node for node in nodes if node not in hidden]
    number = {node: i for i, node in enumerate(nodes)}
    edges = []
    for node in nodes:
        for value in (*node.inputs, *captures(node)):
            producer = None if value is None else value.producer
            while producer is not None and producer in hidden:
                producer = producer.inputs[0].producer if producer.inputs[0] is not None else None
            source = None if producer is None else number.get(producer)
            if source is not None:
                edges.append((source, number[node]))
    layout, lines = arrange(len(nodes), edges), node_lines(graph)
    boxes = []
    for i, node in enumerate(nodes):
        name, text = name_of(node), lines[node]
        boxes.append({
            "k": name, "o": node.op_type, "l": _result(node), "t": text if len(text) <= _TEXT else text[:_TEXT] + "…",
            "x": round(layout.points[i][0]), "y": round(layout.points[i][1]), **history_of(name),
        })  # fmt: skip
    return {
        "title": title,
        "first": next((i for i, node in enumerate(nodes) if node_macs(node)), -1),
        "nodes": boxes,
        "edges": _lines(layout),
        "w": round(layout.width),
        "h": round(layout.height),
    }


def _conversions(nodes: list[Node]) -> set[Node]:
    """Pairs of QuantizeLinear and DequantizeLinear, and the DequantizeLinear of constants: drawn as plain lines."""
    starts = {n for n in nodes if n.op == "QuantizeLinear" and n.output.users}
    pairs = {n for n in starts if all(user.op == "DequantizeLinear" for user in n.output.users)}
    found = set(pairs)
    for node in nodes:
        read = node.inputs[0] if node.op == "DequantizeLinear" else None
        if read is not None and (read.constant is not None or read.producer in pairs):
            found.add(node)
    return found if len(found) < len(nodes) else set()


def _lines(layout: Layout) -> list[list[int]]:
    """Each edge as source, target, then the coordinates of its bends."""
    return [
        [a, b, *(round(c) for point in points[1:-1] for c in point)] for (a, b), points in sorted(layout.routes.items())
    ]


def _result(node: Node) -> str:
    if node.subgraphs:
        return "holds graphs"
    type = node.outputs[0].type if node.outputs else None
    if not isinstance(type, TensorType):
        return ""
    dims = type.shape or ()
    short = ",".join(str(d) if isinstance(d, int) or (d and len(d) <= _SYMBOL) else "?" for d in dims)
    return f"{type.dtype.short}[{short}]" if type.shape is not None else type.dtype.short
