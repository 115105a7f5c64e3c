"""Two Casts around operators that only move elements: the elements keep their original type."""

from __future__ import annotations

from ...analysis.operands import MOVES, moved, tensor_of
from ...ir import DType, Graph, Node, TensorType
from ...pipeline.passes import graph_pass
from ...rewrite import Context

HOLDS: dict[DType, tuple[DType, ...]] = {
    DType.BOOL: (
        DType.UINT8, DType.INT8, DType.INT16, DType.UINT16, DType.INT32, DType.UINT32, DType.INT64, DType.UINT64,
        DType.FLOAT16, DType.FLOAT, DType.DOUBLE,
    ),
    DType.UINT8: (DType.INT16, DType.UINT16, DType.INT32, DType.UINT32, DType.INT64, DType.FLOAT, DType.DOUBLE),
    DType.INT8: (DType.INT16, DType.INT32, DType.INT64, DType.FLOAT, DType.DOUBLE),
    DType.INT16: (DType.INT32, DType.INT64, DType.FLOAT, DType.DOUBLE),
    DType.INT32: (DType.INT64, DType.DOUBLE),
    DType.FLOAT16: (DType.FLOAT, DType.DOUBLE),
    DType.BFLOAT16: (DType.FLOAT, DType.DOUBLE),
    DType.FLOAT: (DType.DOUBLE,),
}  # fmt: skip
"""For each element type, the types that represent all its values."""

_LARGEST = 32  # the most operators between the Casts: a bound on the time of the search alone


@graph_pass("drop-cast-islands")
def drop_cast_islands(graph: Graph, context: Context) -> int:
    """cast_a(move(cast_b(x))) = move(x), for x of type a, all of whose values b represents"""
    changes = 0
    for node in graph.walk():
        island = _island(node) if node.op == "Cast" and not node.domain else None
        if island and node.graph is not None and context.commit("drop-cast-island", node):
            _drop(node.graph, node, island)
            changes += 1
    return changes


def _island(last: Node) -> list[Node] | None:
    """The operators that move data between `last` and the Casts that it undoes, None for any others."""
    target, first = DType(last.attrs["to"]), last.inputs[0]
    island: dict[Node, None] = {}
    queue = [first]
    while queue:
        value = queue.pop()
        node = None if value is None else value.producer
        if value is None or node is None or node.domain or node.graph is not last.graph:
            return None
        if node.op == "Cast":
            if not _undone(node, target):
                return None
            continue
        users = {user for out in node.outputs for user in out.users}
        if node.op not in MOVES or any(user is not last and user not in island for user in users):
            return None
        island[node] = None
        if len(island) > _LARGEST:
            return None
        queue.extend(moved(node))
    return list(island) or None


def _undone(cast: Node, target: DType) -> bool:
    """The Cast widens from type `target`, so that casting back loses nothing."""
    before, between = tensor_of(cast.inputs[0]), tensor_of(cast.output)
    if before is None or between is None or before.dtype != target:
        return False
    return between.dtype in HOLDS.get(target, ())


def _drop(graph: Graph, last: Node, island: list[Node]) -> None:
    target = DType(last.attrs["to"])
    for node in island:
        count = len(moved(node))
        inputs = [
            v.producer.inputs[0] if i < count and v is not None and v.producer is not None and v.producer.op == "Cast"
            else v
            for i, v in enumerate(node.inputs)
        ]  # fmt: skip
        graph.set_inputs(node, inputs)
        for out in node.outputs:
            if isinstance(out.type, TensorType):
                out.type = TensorType(target, out.type.shape)
    before = last.inputs[0]
    assert before is not None
    graph.replace_uses(last.output, before)
    graph.erase(last)
