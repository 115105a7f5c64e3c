"""Shrink a model that shows a failure: delta debugging over nodes (Zeller and Hildebrandt 2002)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from ..ir import Function, Graph, Model, Node, Port, Value, captures, clone_model, clone_node

Holds = Callable[[Model], bool]
"""Whether a model still shows the failure."""


def name_values(model: Model) -> None:
    """Give every value of the root graph a unique name, under which a piece of the model can be fed and read."""
    taken: set[str] = set()
    for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs)):
        stem, number = value.name or "value", 0
        while value.name in taken or not value.name:
            number += 1
            value.name = f"{stem}.{number}"
        taken.add(value.name)


def extract(model: Model, keep: Collection[Node]) -> Model:
    """A model of the root graph's nodes `keep`, with their constants and the model's functions and opsets.

    Values read from other nodes become inputs, values that other nodes read become outputs, under the same names (see
    `name_values`).
    """
    kept = set(keep)
    graph, values = Graph(model.graph.name), dict[Value, Value]()
    nodes = [node for node in model.graph if node in kept]
    for value in _read_from_outside(nodes, kept):
        copy = Value(value.type, value.name)
        copy.default = value.default
        values[value] = graph.add_input(copy)
    for node in nodes:
        graph.append(clone_node(node, values))
    results = [
        v for node in nodes for v in node.outputs if any(_outer(use.node, model.graph) not in kept for use in v.uses)
    ]
    results = results or [v for node in nodes for v in node.outputs if v.is_unused]
    graph.set_outputs([values[v] for v in results], [Port(v.name, v.type) for v in results])
    functions = {key: Function(f.id, clone_model(f.body), f.raw) for key, f in model.functions.items()}
    return Model(graph, dict(model.opsets), functions, model.ir_version, folder=model.folder)


def _read_from_outside(nodes: Sequence[Node], kept: set[Node]) -> dict[Value, None]:
    read: dict[Value, None] = {}
    for node in nodes:
        for value in (*node.inputs, *captures(node)):
            if value is not None and value.constant is None and (value.producer is None or value.producer not in kept):
                read[value] = None
    return read


def _outer(node: Node, root: Graph) -> Node:
    """The node itself if in the root graph, else the root graph's node that encloses it."""
    while node.graph is not None and node.graph is not root and node.graph.owner is not None:
        node = node.graph.owner
    return node


def neighbours(model: Model, start: Iterable[Node], steps: int) -> list[Node]:
    """Nodes of the root graph within `steps` uses of `start`, in order."""
    near = {_outer(node, model.graph) for node in start}
    front = set(near)
    for _ in range(steps):
        beside = {v.producer for node in front for v in (*node.inputs, *captures(node)) if v is not None and v.producer}
        beside |= {_outer(use.node, model.graph) for node in front for v in node.outputs for use in v.uses}
        front = {node for node in beside if node not in near and node is not model.graph.return_node}
        near |= front
    return [node for node in model.graph if node in near]


def shrink(model: Model, holds: Holds, start: Sequence[Node] | None = None) -> Model:
    """A model of few nodes on which `holds` is still true. `start`: nodes on which it is known to hold, by default all.

    Removes halves of the nodes, quarters and so on down to single ones, then bypasses nodes. No single node of the
    result can be removed.
    """
    nodes = list(model.graph) if start is None else list(start)
    parts = 2
    while len(nodes) > 1:
        size = max(len(nodes) // parts, 1)
        pieces = [nodes[i : i + size] for i in range(0, len(nodes), size)]
        smaller = next(filter(None, (_without(model, nodes, piece, holds) for piece in reversed(pieces))), None)
        if smaller is not None:
            nodes, parts = smaller, max(parts - 1, 2)
        elif size == 1:
            break
        else:
            parts = min(parts * 2, len(nodes))
    return _bypass(extract(model, nodes), holds)


def _without(model: Model, nodes: list[Node], piece: list[Node], holds: Holds) -> list[Node] | None:
    gone = set(piece)
    rest = [node for node in nodes if node not in gone]
    return rest if rest and holds(extract(model, rest)) else None


def _bypass(model: Model, holds: Holds) -> Model:
    """Replace results by operands of the same type, one node at a time, while the failure stays."""
    changed = True
    while changed and len(model.graph) > 1:
        changed = False
        for place in range(len(model.graph) - 1, -1, -1):
            for slot in range(len(model.graph.snapshot()[place].inputs)):
                trial = clone_model(model)
                node = trial.graph.snapshot()[place]
                value = node.inputs[slot]
                if value is None or value.type != node.output.type or value.constant is not None:
                    continue
                if node.output.is_result or any(not v.is_unused for v in node.outputs[1:]):
                    continue
                trial.graph.replace_uses(node.output, value)
                trial.graph.erase_unused(node)
                if holds(trial):
                    model, changed = trial, True
                    break
            if changed:
                break
    return model
