"""Constant folding: values that depend on constants alone are computed once, by onnxruntime.

They are collected through the whole model, nested graphs included, and evaluated in a few sessions with optimizations
off, so a folded result equals that of the runtime bit for bit. Constants may take `context.size_limit` bytes in all:
beyond it, values stay computed (ConstantOfShape, Expand, Tile and Range are how small files describe large tensors, and
DequantizeLinear and Cast(int8) are how weights are stored).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ...analysis.evaluation import evaluate, is_plain
from ...ir import RETURN, Array, Constant, DType, Graph, Node, Opaque, TensorType, Value, model_of
from ...ops import is_deterministic, schema, update_types
from ...pipeline.driver import constant_bytes
from ...pipeline.passes import graph_pass
from ...rewrite import Context

FREE = 64
"""Bytes of a result that is free of the limit: the replaced node takes about as many in the file."""

SCRATCH = 1 << 24
"""Bytes that an intermediate result may take during evaluation, if larger than its operands: a bound on memory."""

NEVER = frozenset(("DequantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul"))
"""The stored form of quantized weights, and integer products whose saturation depends on the CPU."""

_VISITS = 8  # the most visits of a node in a round, each after an operand's type became known: a bound on time
_STORED = frozenset(t for t in DType if t.bits and t.bits <= 8 and t is not DType.BOOL)


@graph_pass("fold-constants")
def fold_constants(graph: Graph, context: Context) -> int:
    """Replace computations on constants by their results: f(c1, c2, …) = c."""
    return _Folder(graph, context).run()


def room_for_constants(graph: Graph, context: Context) -> float:
    """Bytes that the constants of a graph's model may still grow by; infinite where there is no limit."""
    model = model_of(graph)
    if model is None or context.size_limit is None:
        return math.inf
    return context.size_limit - constant_bytes(model)


@dataclass(slots=True)
class _Piece:
    """A connected part of the constant nodes, in execution order. growth: bytes by which it enlarges the file."""

    nodes: dict[Node, None] = field(default_factory=dict)
    computed: tuple[Node, ...] = ()  # `nodes` before trimming
    results: dict[Value, None] = field(default_factory=dict)  # values with users outside of the piece
    released: set[Value] = field(default_factory=set)  # constants without other users
    growth: int = 0


class _Folder:
    def __init__(self, graph: Graph, context: Context) -> None:
        self.graph, self.context = graph, context
        self.room = room_for_constants(graph, context)
        self.stay: set[Node] = set()
        self.known: dict[Value, Constant] = {}  # sizes of values whose shape is known
        self.changes = 0

    def run(self) -> int:
        reached: Iterable[Node] = self.graph.walk()
        while True:
            ready = self._collect(reached)
            if not ready:
                return self.changes
            pieces = [piece for piece in map(self._trim, self._pieces(ready)) if piece.results]
            arrays = evaluate(self.graph, [(_needed(p), list(p.results)) for p in pieces], self.known)
            self.stay.update(ready)
            reached = []
            for piece in pieces:
                reached += self._replace(piece, arrays)

    # -- finding nodes

    def _collect(self, reached: Iterable[Node]) -> dict[Node, None]:
        """Nodes computable from constants, in execution order; types that become known on the way are inferred."""
        ready: dict[Node, None] = {}
        values: set[Value] = set()
        queue, visits = deque(reached), Counter[Node]()
        while queue:
            node = queue.popleft()
            visits[node] += 1
            if node.graph is None or node.op == RETURN or node in ready or node in self.stay or visits[node] > _VISITS:
                continue
            if self._is_ready(node, values):
                ready[node] = None
                values.update(node.outputs)
            elif not self._refined(node):
                continue
            queue.extend(use.node for out in node.outputs for use in out._uses)
        return ready

    def _is_ready(self, node: Node, ready: set[Value]) -> bool:
        if node.op in ("Shape", "Size") and node.domain == "":
            return self._knows_size(node)
        for value in node.inputs:
            if value is not None and value.constant is None and value not in ready:
                return False
        return _may_fold(node) and self._fits(node)

    def _knows_size(self, node: Node) -> bool:
        value = node.inputs[0]
        type = None if value is None else value.type
        if not isinstance(type, TensorType) or not type.is_static or type.shape is None:
            return False
        if node.op == "Size":
            self.known[node.output] = Constant.of(np.array(type.size, np.int64))
        else:
            part = type.shape[slice(node.attrs.get("start"), node.attrs.get("end"))]
            self.known[node.output] = Constant.of(np.array(part, np.int64))
        return True

    def _fits(self, node: Node) -> bool:
        """The sizes of the results are known, and small enough to evaluate them."""
        size = _nbytes(node.outputs)
        if size is None and all(v is None or v.constant is not None for v in node.inputs):
            update_types(node)
            size = _nbytes(node.outputs)
        if size is None:
            return False
        source = _nbytes(v for v in node.inputs if v is not None) or 0
        return size <= max(source, SCRATCH) or size <= self.room

    def _refined(self, node: Node) -> bool:
        """Whether a constant from an earlier round makes the node's types more precise."""
        return bool(self.changes) and not node.subgraphs and update_types(node)

    # -- keeping within the limit

    def _pieces(self, ready: dict[Node, None]) -> list[_Piece]:
        parent: dict[Node, Node] = {node: node for node in ready}

        def root(node: Node) -> Node:
            while parent[node] is not node:
                parent[node] = node = parent[parent[node]]
            return node

        for node in ready:
            for value in node.inputs:
                if value is not None and value.producer in parent:
                    parent[root(node)] = root(value.producer)
        pieces: dict[Node, _Piece] = {}
        for node in ready:
            pieces.setdefault(root(node), _Piece()).nodes[node] = None
        return list(pieces.values())

    def _trim(self, piece: _Piece) -> _Piece:
        """Leave out nodes with the largest results until the piece fits into the limit."""
        heap: list[tuple[int, int, Value]] = []
        order = itertools.count()
        piece.computed = tuple(piece.nodes)

        def expose(value: Value) -> None:
            if value in piece.results or all(use.node in piece.nodes for use in value._uses):
                return
            piece.results[value] = None
            piece.growth += self._cost(value)
            heapq.heappush(heap, (-self._cost(value), next(order), value))

        for node in piece.nodes:
            for value in node.inputs:
                if value is None or value.constant is None or value in piece.released:
                    continue
                if all(use.node in piece.nodes for use in value._uses):
                    piece.released.add(value)
                    piece.growth -= value.constant.nbytes
            for out in node.outputs:
                expose(out)
        while piece.growth > max(self.room, 0) and heap and -heap[0][0] > 0:
            large = heapq.heappop(heap)[2].producer
            if large is None or large not in piece.nodes:
                continue
            del piece.nodes[large]
            self.stay.add(large)
            for out in large.outputs:
                if piece.results.pop(out, out) is None:
                    piece.growth -= self._cost(out)
            for value in large.inputs:
                if value is None:
                    continue
                if value in piece.released and value.constant is not None:
                    piece.released.discard(value)
                    piece.growth += value.constant.nbytes
                elif value.producer in piece.nodes:
                    expose(value)
        self.room -= piece.growth
        return piece

    def _cost(self, value: Value) -> int:
        size = _nbytes((value,)) or 0
        return 0 if size <= FREE else size

    # -- replacing values

    def _replace(self, piece: _Piece, arrays: dict[Value, Array]) -> list[Node]:
        """Replace the results of a piece by constants; returns the nodes that read them."""
        reached: dict[Node, None] = {}
        for value in [out for node in piece.nodes for out in node.outputs if out in arrays]:
            node = value.producer
            if node is None or node.graph is None or value.is_unused:
                continue
            if value not in piece.results and arrays[value].nbytes > max(self.room, FREE):
                continue  # an inner value, evaluated node by node: the limit was checked for the results
            if all(use.node in piece.nodes and use.node.outputs[0] in arrays for use in value._uses):
                continue
            if not self.context.commit("fold-constant", node):
                continue
            constant = self.known.get(value) or Constant.of(arrays[value])
            for use in value._uses:
                reached[use.node] = None
            self.graph.replace_uses(value, Value(constant=constant, name=value.name))
            self.graph.erase_unused(node)
            self.changes += 1
        return list(reached)


def _needed(piece: _Piece) -> list[Node]:
    """The nodes that the piece's results depend on, in execution order."""
    wanted, needed = set(piece.results), []
    for node in reversed(piece.computed):
        if any(out in wanted for out in node.outputs):
            needed.append(node)
            wanted.update(v for v in node.inputs if v is not None)
    return needed[::-1]


def _may_fold(node: Node) -> bool:
    if node.op in NEVER or node.domain or node.subgraphs or not is_deterministic(node):
        return False
    if any(isinstance(value, Opaque) for value in node.attrs.values()) or schema(node) is None:
        return False
    return all(is_plain(out.type) for out in node.outputs) and not _unpacks(node)


def _unpacks(node: Node) -> bool:
    """A Cast of weights that are stored in 8 bits or fewer to a wider type."""
    if node.op not in ("Cast", "CastLike"):
        return False
    value = node.inputs[0]
    before, after = (None if value is None else value.type), node.output.type
    if not isinstance(before, TensorType) or not isinstance(after, TensorType):
        return True
    few = before.size is not None and before.size <= 16
    return before.dtype in _STORED and after.dtype not in _STORED and not few


def _nbytes(values: Iterable[Value]) -> int | None:
    """Bytes of all tensors together; None unless every size is known."""
    total = 0
    for value in values:
        type = value.type
        if not isinstance(type, TensorType) or type.size is None:
            return None
        total += (type.size * type.dtype.bits + 7) // 8
    return total
