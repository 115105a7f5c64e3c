"""Prepare a copy of the model: one form for each operator that integers run, and equalized layers."""

from __future__ import annotations

from ....ir import Model, Node, clone_model
from ....rewrite import Context
from ...convert.roots import spell_powers
from ..numerics.equalize import equalize
from ..options import Quantize
from .shared import read_transposed


def spell_for_integers(model: Model, options: Quantize, target: str) -> Model:
    """A copy in which a Sum of two is an Add and no weight is read through a Transpose, with layers equalized if
    requested.

    For speed in onnxruntime LRN is expanded, too: beside fast integers it takes nearly all of the time.
    """
    copy = clone_model(model)
    for node in list(copy.graph):
        if node.op == "Sum" and len(node.inputs) == 2:
            _rename(copy, node, "Add")
    read_transposed(copy)
    if options.equalize and options.mode == "static":
        equalize(copy)
    if options.speed and target != "graphopt":
        spell_powers.run(copy.graph, Context(target))
    return copy


def _rename(model: Model, node: Node, op: str) -> None:
    renamed = Node(op, node.inputs, {}, [v.type for v in node.outputs], name=node.name)
    renamed.origins, renamed.made_by = node.origins, "quantize"
    renamed.output.name = node.output.name
    model.graph.insert_before(node, renamed)
    model.graph.replace_uses(node.output, renamed.output)
    model.graph.erase(node)
