"""From two graphs and the log of what was rewritten between them to the record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..ir import Model, Node, Value
from ..rewrite import RewriteLog
from .record import Gone, Kept, Provenance, Step

Notes = dict[str, str]


@dataclass(frozen=True)
class Trail:
    """What an optimisation leaves behind so that its story can be told; nothing is computed before it is asked.

    original: the model as it was lifted. result: what was made of it. logs: the rewrites, stage by stage.
    passes: those that ran, asked for what they do. stages: the lossy ones that changed something; they keep no log.
    """

    original: Model
    result: Model
    logs: tuple[RewriteLog, ...]
    passes: tuple[Any, ...] = ()
    stages: tuple[str, ...] = ()

    @cached_property
    def provenance(self) -> Provenance:
        """Where each node comes from, and what became of each original node."""
        return trace(self.original, self.result, self.logs, self.passes, self.stages)


def trace(
    original: Model, result: Model, logs: Sequence[RewriteLog], passes: Sequence[Any] = (), stages: Sequence[str] = ()
) -> Provenance:
    """The provenance of `result`, which rewrites told in `logs`, one after another, made from `original`.

    Bodies of functions are not traced. `passes` are asked what they and their rules do; what no log tells of is put
    down to the `stages` that keep none.
    """
    names = {node.origins[0]: node.op for node in original.graph.walk() if node.origins}
    steps: list[Step] = []
    gone: dict[str, Gone] = {}
    for log in logs:
        first = len(steps)
        steps += [Step(by, rewrite, nodes) for by, rewrite, nodes in log.entries]
        for sources, by, entry in log.erased:
            known = entry >= 0 and log.entries[entry][0] == by
            gone.update((name, Gone(by, first + entry if known else None)) for name in sources)
    unlogged = " or ".join(stages)
    nodes = dict(_emitted(result, unlogged))
    for node in result.graph.walk():
        for name in node.origins:
            gone.pop(name, None)
    alive = {name for node in result.graph.walk() for name in node.origins}
    missing = {name: Gone(unlogged, None) for name in names if name not in alive and name not in gone}
    told = {name: how for name, how in {**gone, **missing}.items() if name in names}
    used = {s.by for s in steps} | {s.rewrite for s in steps} | {g.by for g in told.values()}
    notes = {name: text for name, text in _notes(passes).items() if name in used}
    return Provenance(names, nodes, told, tuple(steps), notes)


def _emitted(result: Model, unlogged: str) -> Iterator[tuple[str, Kept]]:
    """The nodes as they are in the file, by the name of their first output, in the file's order."""
    names = _value_names(result)
    found = _first_names(result, names)
    for node in result.graph.walk():
        if node in found:
            by = node.made_by or ("" if node.origins else unlogged)
            yield found[node], Kept(node.op, node.origins or _near(node), by)
    for port, value in zip(result.graph.ports, result.graph.outputs):
        if names.get(value) != port.name:
            made = value.producer
            yield port.name, Kept("Identity", () if made is None else made.origins, "emit")


def _near(node: Node) -> tuple[str, ...]:
    """The original nodes beside one that has none of its own: those it reads from, else those that read it."""
    before = [v.producer for v in node.inputs if v is not None and v.producer is not None]
    after = [user for value in node.outputs for user in value.users]
    for near in (before, after):
        found = tuple(dict.fromkeys(name for n in near for name in n.origins))
        if found:
            return found
    return ()


def file_names(model: Model) -> dict[Node, str]:
    """By what a node can be found in the file: the name of its first output that has one. Functions are left out."""
    return _first_names(model, _value_names(model))


def _first_names(model: Model, names: dict[Value, str]) -> dict[Node, str]:
    firsts = {node: next((names[v] for v in node.outputs if names.get(v)), "") for node in model.graph.walk()}
    return {node: name for node, name in firsts.items() if name}


def _value_names(model: Model) -> dict[Value, str]:
    from ..onnx_io.emit import Emitter

    emitter = Emitter(model, skeleton=True)
    emitter.model()
    return {value: name for name, value in emitter.values.items()}


def _notes(passes: Sequence[Any]) -> Notes:
    notes: Notes = {}
    for item in passes:
        notes.setdefault(item.name, item.summary)
        for rule in item.rules:
            notes.setdefault(rule.name, rule.doc.partition("\n")[0])
    return notes
