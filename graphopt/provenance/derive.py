"""Derive a provenance from two graphs and the log of the rewrites between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..ir import Model, Node, Value
from ..rewrite import RewriteLog
from .record import Origin, Provenance, Removal, Step

Notes = dict[str, str]


@dataclass(frozen=True)
class Trail:
    """The inputs of a provenance, which is derived at first access.

    original: the lifted model. result: the optimized model. logs: the rewrites, stage by stage. passes: the passes run,
    for their summaries. stages: the lossy stages that changed the model; they keep no log.
    """

    original: Model
    result: Model
    logs: tuple[RewriteLog, ...]
    passes: tuple[Any, ...] = ()
    stages: tuple[str, ...] = ()

    @cached_property
    def provenance(self) -> Provenance:
        """The origin of each node, and the fate of each original node."""
        return derive_provenance(self.original, self.result, self.logs, self.passes, self.stages)


def derive_provenance(
    original: Model, result: Model, logs: Sequence[RewriteLog], passes: Sequence[Any] = (), stages: Sequence[str] = ()
) -> Provenance:
    """The provenance of `result`, derived from `original` by the rewrites in `logs`, in order.

    Function bodies are left out. The notes are the summaries of `passes` and their rules. Changes without a log entry
    are attributed to the `stages`, which keep no log.
    """
    names = {node.origins[0]: node.op for node in original.graph.walk() if node.origins}
    steps: list[Step] = []
    gone: dict[str, Removal] = {}
    for log in logs:
        first = len(steps)
        steps += [Step(by, rewrite, nodes) for by, rewrite, nodes in log.entries]
        for sources, by, entry in log.erased:
            known = entry >= 0 and log.entries[entry][0] == by
            gone.update((name, Removal(by, first + entry if known else None)) for name in sources)
    unlogged = " or ".join(stages)
    nodes = dict(_emitted(result, unlogged))
    for node in result.graph.walk():
        for name in node.origins:
            gone.pop(name, None)
    alive = {name for node in result.graph.walk() for name in node.origins}
    missing = {name: Removal(unlogged, None) for name in names if name not in alive and name not in gone}
    removed = {name: how for name, how in {**gone, **missing}.items() if name in names}
    used = {s.by for s in steps} | {s.rewrite for s in steps} | {g.by for g in removed.values()}
    notes = {name: text for name, text in _notes(passes).items() if name in used}
    return Provenance(names, nodes, removed, tuple(steps), notes)


def _emitted(result: Model, unlogged: str) -> Iterator[tuple[str, Origin]]:
    """The origin of each node of the emitted file, by the name of its first output, in the file's order."""
    names = _value_names(result)
    first_names = _first_names(result, names)
    for node in result.graph.walk():
        if node in first_names:
            by = node.made_by or ("" if node.origins else unlogged)
            yield first_names[node], Origin(node.op, node.origins or _near(node), by)
    for port, value in zip(result.graph.ports, result.graph.outputs):
        if names.get(value) != port.name:
            producer = value.producer
            yield port.name, Origin("Identity", () if producer is None else producer.origins, "emit")


def _near(node: Node) -> tuple[str, ...]:
    """The origins next to a node without any: of its operands' producers, else of its users."""
    before = [v.producer for v in node.inputs if v is not None and v.producer is not None]
    after = [user for value in node.outputs for user in value.users]
    for near in (before, after):
        origins = tuple(dict.fromkeys(name for n in near for name in n.origins))
        if origins:
            return origins
    return ()


def file_names(model: Model) -> dict[Node, str]:
    """The name of each node in the file: its first named output. Functions are left out."""
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
