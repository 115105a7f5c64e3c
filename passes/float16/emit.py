"""Write an assignment as a model: constants in float16, Casts where float16 and float32 meet."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace

import numpy as np

from ...ir import RETURN, Constant, DType, Graph, Model, Node, TensorType, Value, clone_model
from .assign import WEIGHT, Candidates
from .constants import halved, why_not_half
from .slots import HalfSlots, is_float


def build(model: Model, given: Candidates, half: Set[Node], keep_io: bool, store: bool = True) -> Model:
    """A copy in which the nodes of `half` compute in float16.

    store: weights that other nodes read in float32 are stored in float16, too, where the format holds them.
    """
    copy = clone_model(model)
    slots = {new: given.slots[old] for old, new in zip(model.graph.walk(), copy.graph.walk()) if old in half}
    inputs: dict[Value, None] = {}
    if not keep_io:
        inputs = {value: None for value in copy.graph.inputs if is_float(value) and not value.default}
    _Builder(copy, slots, inputs).run(store)
    return copy


def stored(model: Model) -> Model:
    """A copy with weights stored in float16 and all else unchanged."""
    return build(model, Candidates({}, {}), frozenset(), keep_io=True)


def rounded(model: Model, given: Candidates, half: Set[Node]) -> Model:
    """A float32 copy in which every value that `build` makes float16 is rounded to float16 and back: the result of any
    runtime that rounds results, whatever its internal precision.
    """
    copy = clone_model(model)
    chosen = {new: given.slots[old] for old, new in zip(model.graph.walk(), copy.graph.walk()) if old in half}
    made = {node.outputs[slot] for node, slots in chosen.items() for slot in slots.outputs}
    passed: dict[Value, Value] = {}
    for node, slots in chosen.items():
        graph = node.graph
        assert graph is not None
        for slot in slots.inputs:
            value = node.inputs[slot]
            if value is None or value in made:
                continue
            if value.constant is not None:
                graph.set_input(node, slot, Value(constant=Constant.of(halved(value.constant.array()).astype("f4"))))
            else:
                if value not in passed:
                    passed[value] = _through_half(value)
                graph.set_input(node, slot, passed[value])
    for value in made:
        for use in value.uses:
            if value not in passed:
                passed[value] = _through_half(value)
            if use.node is not passed[value].producer and use.node.graph is not None:
                use.node.graph.set_input(use.node, use.slot, passed[value])
    return copy


def _through_half(value: Value) -> Value:
    """The value rounded to float16, as float32, right after its producer."""
    down = Node("Cast", [value], {"to": int(DType.FLOAT16)}, [_as_half(value)])
    up = Node("Cast", [down.output], {"to": int(DType.FLOAT)}, [value.type])
    _insert_behind(value, down)
    _insert_behind(down.output, up)
    return up.output


def _insert_behind(value: Value, node: Node) -> None:
    """Insert a node right after the producer of `value`, or first in the graph whose input it is."""
    if value.producer is not None and value.producer.graph is not None:
        value.producer.graph.insert_after(value.producer, node)
        return
    assert value.owner is not None
    _insert_first(value.owner, node)


def _as_half(value: Value) -> TensorType:
    assert isinstance(value.type, TensorType)
    return TensorType(DType.FLOAT16, value.type.shape)


@dataclass(slots=True)
class _Builder:
    """Edits a copy. slots: of nodes that become float16. inputs: the model's inputs that become float16."""

    model: Model
    slots: dict[Node, HalfSlots]
    inputs: dict[Value, None]
    casts: dict[Value, Value] = field(default_factory=dict)
    halves: dict[Value, Value] = field(default_factory=dict)
    restored: dict[Value, Value] = field(default_factory=dict)

    def run(self, store: bool) -> None:
        for value in self.inputs:
            value.type = _as_half(value)
        for node, slots in self.slots.items():
            self._retype(node, slots)
        for graph in list(self.model.graph.graphs()):
            for node in [*graph.snapshot(), graph.return_node]:
                for slot, read in enumerate(node.inputs):
                    if read is not None:
                        self._connect(graph, node, slot, read, store)
        if self.inputs:
            self._retype_results()

    def _retype(self, node: Node, slots: HalfSlots) -> None:
        for slot in slots.outputs:
            node.outputs[slot].type = _as_half(node.outputs[slot])
        graph = node.graph
        assert graph is not None
        if node.op == "Cast" and slots.outputs:
            graph.set_attr(node, "to", int(DType.FLOAT16))
        if node.op == "ConstantOfShape" and slots.outputs:
            given = node.attrs.get("value")
            filled = given.array() if isinstance(given, Constant) else np.zeros(1, np.float32)
            graph.set_attr(node, "value", Constant.of(halved(filled)))

    def _connect(self, graph: Graph, node: Node, slot: int, value: Value, store: bool) -> None:
        """Convert one operand to the type that its reader requires."""
        wants_half = node in self.slots and slot in self.slots[node].inputs
        if value.constant is not None:
            if wants_half and is_float(value):
                graph.set_input(node, slot, self._half(value))
            elif store and is_float(value) and node.op != RETURN and _is_stored(value.constant):
                graph.set_input(node, slot, self._restored(value))
            return
        type = value.type
        if not isinstance(type, TensorType):
            return
        if wants_half and type.dtype is DType.FLOAT:
            graph.set_input(node, slot, self._cast(value, DType.FLOAT16))
        elif not wants_half and type.dtype is DType.FLOAT16 and self._was_float(value) and not self._may_leave(node):
            graph.set_input(node, slot, self._cast(value, DType.FLOAT))

    def _may_leave(self, node: Node) -> bool:
        """Whether the node returns the model's results, whose types may change."""
        return bool(self.inputs) and node is self.model.graph.return_node

    def _was_float(self, value: Value) -> bool:
        """Whether this conversion made the value float16."""
        producer = value.producer
        return value in self.inputs or (producer in self.slots and value.index in self.slots[producer].outputs)

    def _half(self, value: Value) -> Value:
        if value not in self.halves:
            assert value.constant is not None
            self.halves[value] = Value(name=value.name, constant=Constant.of(halved(value.constant.array())))
        return self.halves[value]

    def _cast(self, value: Value, dtype: DType) -> Value:
        """The value in another type, by one Cast right after its producer."""
        if value not in self.casts:
            assert isinstance(value.type, TensorType)
            cast = Node("Cast", [value], {"to": int(dtype)}, [TensorType(dtype, value.type.shape)])
            self.casts[value] = cast.output
            _insert_behind(value, cast)
        return self.casts[value]

    def _restored(self, value: Value) -> Value:
        """A weight that is stored in float16 and read in float32: runtimes fold the Cast when they load the model."""
        if value not in self.restored:
            cast = Node("Cast", [self._half(value)], {"to": int(DType.FLOAT)}, [value.type])
            _insert_first(self.model.graph, cast)
            self.restored[value] = cast.output
        return self.restored[value]

    def _retype_results(self) -> None:
        graph = self.model.graph
        ports = [
            replace(port, type=TensorType(DType.FLOAT16, port.type.shape))
            if isinstance(port.type, TensorType) and port.type.dtype is DType.FLOAT and not is_float(value)
            else port
            for port, value in zip(graph.ports, graph.outputs)
        ]
        graph.set_outputs(graph.outputs, ports)


def _insert_first(graph: Graph, node: Node) -> None:
    nodes = graph.snapshot()
    graph.insert_before(nodes[0] if nodes else graph.return_node, node)


def _is_stored(constant: Constant) -> bool:
    return constant.size >= WEIGHT and not why_not_half(constant)
