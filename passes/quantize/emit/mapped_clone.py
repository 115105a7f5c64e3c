"""A copy of a model with the maps from the original's nodes and values to the copy's."""

from __future__ import annotations

from dataclasses import dataclass

from ....ir import Model, Node, Value, clone_model


@dataclass(frozen=True, slots=True)
class MappedClone:
    """The copy, and its nodes and non-constant values by their originals."""

    model: Model
    nodes: dict[Node, Node]
    values: dict[Value, Value]


def mapped_clone(model: Model) -> MappedClone:
    """Copy a model; the root graph's nodes and values are mapped."""
    copy = clone_model(model)
    nodes = dict(zip(model.graph.snapshot(), copy.graph.snapshot(), strict=True))
    values = dict(zip(model.graph.inputs, copy.graph.inputs, strict=True))
    for old, new in nodes.items():
        values.update(zip(old.outputs, new.outputs, strict=True))
    return MappedClone(copy, nodes, values)
