"""Multiply-accumulates of a model's nodes at the sizes of one sample."""

from __future__ import annotations

from ..calibration import Shapes
from ..ir import Model, Node, Value
from .figures import LINEAR_MAPS, node_macs


def macs_values(model: Model) -> list[Value]:
    """The values of the root graph whose shapes tell its multiply-accumulates."""
    nodes = [node for node in model.graph if node.op in LINEAR_MAPS]
    return [value for node in nodes for value in (*node.inputs, *node.outputs) if value is not None]


def macs_at(model: Model, shapes: Shapes) -> dict[Node, int]:
    """Multiply-accumulates of each linear map, nested graphs included, at these shapes of `macs_values`.

    Sizes that they do not tell, and those of nested graphs, are the declared ones, where open ones count as 1.
    """
    return {node: node_macs(node, shapes) for node in model.graph.walk() if node.op in LINEAR_MAPS}
