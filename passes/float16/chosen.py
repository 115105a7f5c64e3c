"""The caller's choices of float16 for single layers; and the decisions in the same words."""

from __future__ import annotations

from collections.abc import Mapping

from ...compress.choices import FLOAT16, FLOAT32, STORED16, chosen_for, layer_names
from ...ir import Model, Node
from .assign import Candidates, candidates, is_heavy


def chosen(model: Model, given: Candidates, layers: Mapping[str, str]) -> Candidates:
    """The candidates that the choices permit: layers named for float16, and operators without weights."""
    choices = chosen_for(_names(model), layers)
    kept = {node: "as it was chosen" for node, choice in choices.items() if choice != FLOAT16 and node in given.slots}
    unnamed = {n: "not chosen" for n, slots in given.slots.items() if n not in choices and is_heavy(n, slots)}
    return given.without({**kept, **unnamed})


def named(model: Model, layers: Mapping[str, str]) -> list[Node]:
    """The nodes of a model that have a choice."""
    return list(chosen_for(_names(model), layers))


def choices_of(model: Model, given: Candidates, stores: bool) -> dict[str, str]:
    """The decision for each node, by its name; `stores`: weights of float32 nodes are stored in float16."""
    names, all_slots = _names(model), candidates(model).slots
    choices = {}
    for node, slots in all_slots.items():
        if node not in given.slots:
            choices[names[node]] = STORED16 if stores and is_heavy(node, slots) else FLOAT32
        elif is_heavy(node, slots):
            choices[names[node]] = FLOAT16
    return choices


def _names(model: Model) -> dict[Node, str]:
    """Names of all nodes; those of nested graphs come last, so that the root's are the same without them."""
    root = list(model.graph)
    return layer_names(dict.fromkeys((*root, *model.graph.walk())))
