"""Segments in onnxruntime: part of a graph as a model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir import Array, Graph, Model, Node, Port, Value, clone_node
from ...machine.sessions import open_session, session_options
from ..lower.operations import Operation
from ..place.partition import Segment, sources

_QUIET = {"session.force_spinning_stop": "1"}  # its threads do not spin where the next region's want to run


def extract(model: Model, segment: Segment) -> bytes:
    """The nodes of a segment as an ONNX file whose inputs and outputs are the segment's, numbered."""
    from ...onnx_io import to_proto

    values: dict[Value, Value] = {}
    for index, value in enumerate(segment.inputs):
        values[value] = Value(value.type, f"graphopt_i{index}")
    graph = Graph("segment", [values[value] for value in segment.inputs])
    for node in _nodes(segment):
        _append(graph, node, values)
    ports = [Port(f"graphopt_o{i}", v.type) for i, v in enumerate(segment.outputs)]
    graph.set_outputs([values[value] for value in segment.outputs], ports)
    made = Model(
        graph, opsets=dict(model.opsets), functions=model.functions, ir_version=model.ir_version, folder=model.folder
    )
    return bytes(to_proto(made).SerializeToString())


def _nodes(segment: Segment) -> list[Node]:
    found: dict[Node, None] = {}
    for unit in segment.units:
        found.update(dict.fromkeys(unit.nodes if isinstance(unit, Operation) else (unit,)))
    return list(found)


def _append(graph: Graph, node: Node, values: dict[Value, Value]) -> None:
    """A copy of the node at the end, after what it reads and nobody has copied yet."""
    if node.outputs[0] in values:
        return
    for value in sources(node):
        producer = value.producer
        if value not in values and producer is not None and producer.graph is node.graph:
            _append(graph, producer, values)
    graph.append(clone_node(node, values))


_abandoned: list[Any] = []


def abandon(session: Any) -> None:
    """Keep a forked parent's session for good: closing it would wait for threads that the child does not have."""
    _abandoned.append(session)


class OrtSegment:
    """A segment that onnxruntime runs: the bytes of a model that `extract` made, with so many inputs and outputs.

    A forked child makes its session anew: threads do not survive a fork.
    """

    def __init__(self, source: bytes, inputs: int, outputs: int, threads: int, folder: str = "") -> None:
        self._source, self._threads, self._folder = source, threads, folder
        self._inputs = [f"graphopt_i{index}" for index in range(inputs)]
        self._outputs = [f"graphopt_o{index}" for index in range(outputs)]
        self._session = self._open()

    def _open(self) -> Any:
        return open_session(self._source, session_options(threads=self._threads, folder=self._folder, entries=_QUIET))

    def after_fork(self) -> None:
        """Open the session again in a forked child."""
        abandon(self._session)
        self._session = self._open()

    def run(self, arrays: Sequence[Array]) -> list[Any]:
        """The segment's outputs for values in the order of its inputs; arrays are used, and given, where they lie."""
        found: list[Any] = self._session.run(self._outputs, dict(zip(self._inputs, arrays)))
        return found
