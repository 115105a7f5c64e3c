"""A copy of the model in the spelling that integers run."""

from __future__ import annotations

from ....ir import Model, Node, clone_model
from ....rewrite import Context
from ...convert.roots import spell_powers
from ..numerics.equalize import equalize
from ..options import Quantize


def spell_for_integers(model: Model, options: Quantize, target: str) -> Model:
    """A copy in which what integers can run is spelled one way: Sum of two is Add; layers equalised if wanted.

    For speed in onnxruntime LRN is spelled, too: fast integers leave it nearly all of the time.
    """
    copy = clone_model(model)
    for node in list(copy.graph):
        if node.op == "Sum" and len(node.inputs) == 2:
            _rename(copy, node, "Add")
    if options.equalize and options.mode == "static":
        equalize(copy)
    if options.speed and target != "graphopt":
        spell_powers.run(copy.graph, Context(target))
    return copy


def _rename(model: Model, node: Node, op: str) -> None:
    made = Node(op, node.inputs, {}, [v.type for v in node.outputs], name=node.name)
    made.origins, made.made_by = node.origins, "quantize"
    made.output.name = node.output.name
    model.graph.insert_before(node, made)
    model.graph.replace_uses(node.output, made.output)
    model.graph.erase(node)
