"""Multiply-accumulates of a model's nodes at the sizes of one sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..calibration import shapes_at
from ..ir import Model, Node
from .figures import LINEAR_MAPS, node_macs


def macs_at(model: Model, feed: Mapping[str, Any]) -> dict[Node, int]:
    """Multiply-accumulates of each linear map, nested graphs included, at the sizes that `feed` gives it.

    Where a size is open and no run shows it (nested graphs), it counts as 1, as in `figures`.
    """
    nodes = [node for node in model.graph.walk() if node.op in LINEAR_MAPS]
    values = [v for n in nodes if n.graph is model.graph for v in (*n.inputs, *n.outputs) if v is not None]
    shapes = shapes_at(model, values, dict(feed))
    return {node: node_macs(node, shapes) for node in nodes}
