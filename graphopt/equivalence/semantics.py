"""What the inputs of a model mean, read off the operators that consume them.

A token id is what indexes a table, a mask is what selects, a sampling rate is what is compared with 16000: each input
is followed forward through operators that keep its elements until an operator says what it wants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from .runnable import Source, nested_graphs

_SMALL = 4096

# Operators whose output holds elements of input 0 (or of any input, where listed with None).
_CARRIES: dict[str, tuple[int, ...] | None] = {
    "Identity": (0,), "Cast": (0,), "CastLike": (0,), "Reshape": (0,), "Squeeze": (0,), "Unsqueeze": (0,),
    "Flatten": (0,), "Transpose": (0,), "Expand": (0,), "Tile": (0,), "Slice": (0,), "Split": (0,), "Gather": (0,),
    "GatherElements": (0,), "GatherND": (0,), "Concat": None, "Where": (1, 2), "Pad": (0, 2), "Abs": (0,),
    "Floor": (0,), "Ceil": (0,), "Round": (0,), "Dropout": (0,), "Trilu": (0,), "Max": None, "Min": None,
    "ScatterElements": (0, 2), "ScatterND": (0, 2), "ReduceMax": (0,), "ReduceMin": (0,), "SplitToSequence": (0,),
    "SequenceAt": (0,), "ConcatFromSequence": (0,), "Unique": (0,), "Compress": (0,),
}  # fmt: skip

# Slots that index the first axis range of another input: operator -> {index slot: (data slot, attribute of the axis)}.
_INDEXES = {
    "Gather": {1: 0}, "GatherElements": {1: 0}, "ScatterElements": {1: 0}, "Scatter": {1: 0},
    "EmbedLayerNormalization": {0: 2, 1: 4, 8: 3}, "GatherBlockQuantized": {1: 0},
}  # fmt: skip
_INDEXES_ND = {"GatherND": {1: 0}, "ScatterND": {1: 0}}

# Slots that take a size, a count or a place.
_SIZES = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "ConstantOfShape": (0,), "Range": (0, 1, 2), "Slice": (1, 2, 4),
    "Pad": (1,), "Resize": (3,), "Upsample": (1,), "TopK": (1,), "Split": (1,), "Trilu": (1,), "Loop": (0,),
    "NonMaxSuppression": (2,), "EyeLike": (0,), "CenterCropPad": (1,), "HannWindow": (0,), "HammingWindow": (0,),
    "BlackmanWindow": (0,), "RandomNormal": (0,), "DFT": (1,), "STFT": (1, 3), "Unsqueeze": (1,), "Squeeze": (1,),
}  # fmt: skip
_LENGTHS = {
    "LSTM": (4,), "GRU": (4,), "RNN": (4,), "ReverseSequence": (1,), "GroupQueryAttention": (5, 6), "Attention": (6,),
    "TensorScatter": (2,),
}  # fmt: skip
_LOGIC = frozenset(("And", "Or", "Not", "Xor", "If"))


@dataclass(slots=True)
class Facts:
    """What is known of one input.

    `limit` is the smallest table its elements index (after undoing constant shifts), `low` the smallest element that is
    not negative there; `tables` are indexed values of unknown size, with the axis; `choices` are constants its elements
    are compared with; `roles` are words: mask, size, length, index, positive, threshold, compared.
    """

    limit: int | None = None
    low: int = 0
    tables: list[tuple[str, int]] = field(default_factory=list)
    choices: set[int | float | str] = field(default_factory=set)
    roles: set[str] = field(default_factory=set)


class Index:
    """Producers, consumers and constants of a model by name, nested graphs included, functions inlined."""

    def __init__(self, source: Source) -> None:
        proto = source.proto if not source.proto.functions else _inlined(source.proto)
        self.consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        self.producer: dict[str, onnx.NodeProto] = {}
        self.constants: dict[str, onnx.TensorProto] = {}
        self.rename: dict[str, list[str]] = {}
        self.order: list[onnx.NodeProto] = list(proto.graph.node)
        self._graph(proto.graph)

    def _graph(self, graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            self.constants.setdefault(tensor.name, tensor)
        for node in graph.node:
            for slot, name in enumerate(node.input):
                if name:
                    self.consumers.setdefault(name, []).append((node, slot))
            for name in node.output:
                self.producer.setdefault(name, node)
            if node.op_type == "Constant":
                for attr in node.attribute:
                    if attr.name == "value":
                        self.constants.setdefault(node.output[0], attr.t)
                    elif attr.name in ("value_int", "value_ints", "value_float", "value_floats"):
                        self.constants.setdefault(node.output[0], _plain_constant(attr))
            for nested in nested_graphs(node):
                self._bind(node, nested)
                self._graph(nested)

    def _bind(self, node: onnx.NodeProto, nested: onnx.GraphProto) -> None:
        """Loop and Scan hand their inputs to the inputs of their body; every body hands its results out."""
        given = list(node.input)
        if node.op_type == "Loop":
            given = ["", *given[1:]]
        for outer, inner in zip(given, nested.input):
            if outer:
                self.rename.setdefault(outer, []).append(inner.name)
        results = [o.name for o in nested.output]
        if node.op_type == "Loop":
            results = results[1:]
        for inner_name, outer in zip(results, node.output):
            if outer:
                self.rename.setdefault(inner_name, []).append(outer)

    def array(self, name: str) -> np.ndarray[Any, Any] | None:
        """A small constant's values; None for what is large, external or not constant."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL or np.prod(tensor.dims) > _SMALL:
            return None
        values: np.ndarray[Any, Any] = onnx.numpy_helper.to_array(tensor)
        return values

    def table_dims(self, name: str) -> tuple[int, ...] | None:
        """The shape of a constant, looked up through operators that keep it."""
        for _ in range(8):
            tensor = self.constants.get(name)
            if tensor is not None:
                return tuple(tensor.dims)
            node = self.producer.get(name)
            if node is None or node.op_type not in ("Identity", "Cast", "DequantizeLinear", "QuantizeLinear", "Mul"):
                return None
            name = node.input[0]
        return None

    def origin(self, name: str, inputs: frozenset[str]) -> str | None:
        """The model input a value comes from along first inputs that are not constant."""
        seen = set()
        while name not in inputs:
            node = self.producer.get(name)
            if node is None or name in seen:
                return None
            seen.add(name)
            live = [n for n in node.input if n and n not in self.constants]
            if not live:
                return None
            name = live[0]
        return name


def read_facts(source: Source, index: Index) -> dict[str, Facts]:
    """The facts of every input of the model."""
    return {port.name: _follow(port.name, index) for port in source.inputs}


def _follow(name: str, index: Index) -> Facts:
    facts = Facts()
    queue: list[tuple[str, int, int]] = [(name, 1, 0)]  # the value holds factor * element + shift
    seen = {name}
    while queue and len(seen) < 400:
        value, factor, shift = queue.pop(0)
        for renamed in index.rename.get(value, ()):
            if renamed not in seen:
                seen.add(renamed)
                queue.append((renamed, factor, shift))
        for node, slot in index.consumers.get(value, ()):
            for out, f, s in _step(facts, index, node, slot, factor, shift):
                if out and out not in seen:
                    seen.add(out)
                    queue.append((out, f, s))
    return facts


def _step(
    facts: Facts, index: Index, node: onnx.NodeProto, slot: int, factor: int, shift: int
) -> Iterator[tuple[str, int, int]]:
    """Note what `node` wants of its input `slot`; yield the outputs that still hold the elements."""
    op = node.op_type
    if slot in _INDEXES.get(op, {}) or slot in _INDEXES_ND.get(op, {}):
        _note_index(facts, index, node, slot, factor, shift)
        return
    if slot in _SIZES.get(op, ()):
        facts.roles.add("size")
        return
    if slot in _LENGTHS.get(op, ()):
        facts.roles.add("length")
        return
    if op == "OneHot" and slot == 0:
        depth = index.array(node.input[1])
        _note_limit(facts, int(depth.ravel()[0]) if depth is not None else None, factor, shift)
        return
    if op in _LOGIC or (op == "Where" and slot == 0) or op in ("CumSum", "NonZero"):
        facts.roles.add("mask")
        return
    if op == "NonMaxSuppression" and slot >= 3:
        facts.roles.add("threshold")
        return
    if op in ("Log", "Sqrt", "Pow") and slot == 0:
        facts.roles.add("positive")
        return
    if op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"):
        other = index.array(node.input[1 - slot])
        if other is None:
            facts.roles.add("compared")
        elif op == "Equal" and other.size <= 16:
            facts.choices.update(v if isinstance(v, str) else _scalar(v) for v in other.ravel().tolist())
        elif other.size == 1:
            facts.choices.update((_scalar(other.item()), _scalar(other.item()) + 1, _scalar(other.item()) - 1))
        return
    if op in ("Add", "Sub", "Mul", "Div", "Mod", "Clip"):
        yield from _arithmetic(facts, index, node, slot, factor, shift)
        return
    if op == "Split":
        yield from ((out, factor, shift) for out in node.output)
        return
    carried = _CARRIES.get(op, ())
    if carried is None or slot in carried:
        yield node.output[0], factor, shift


def _arithmetic(
    facts: Facts, index: Index, node: onnx.NodeProto, slot: int, factor: int, shift: int
) -> Iterator[tuple[str, int, int]]:
    op, out = node.op_type, node.output[0]
    if op in ("Mod", "Clip"):
        return
    other_name = node.input[1 - slot] if len(node.input) == 2 else ""
    other = index.array(other_name)
    if op == "Sub" and slot == 1 and other is not None and other.size == 1 and float(other.item()) == 1.0:
        facts.roles.add("mask")
        return
    if other is None or other.size != 1:
        if op in ("Add", "Sub") and slot == 0:
            yield out, factor, shift
        return
    constant = float(other.item())
    if not constant.is_integer():
        return
    if op == "Add":
        yield out, factor, shift + int(constant)
    elif op == "Sub" and slot == 0:
        yield out, factor, shift - int(constant)
    elif op == "Mul" and constant > 0:
        yield out, factor * int(constant), shift * int(constant)


def _note_index(facts: Facts, index: Index, node: onnx.NodeProto, slot: int, factor: int, shift: int) -> None:
    facts.roles.add("index")
    data = node.input[{**_INDEXES.get(node.op_type, {}), **_INDEXES_ND.get(node.op_type, {})}[slot]]
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    dims = index.table_dims(data)
    if dims is None:
        facts.tables.append((data, axis))
    elif node.op_type in _INDEXES_ND:
        _note_limit(facts, min(dims, default=1), factor, shift)
    elif -len(dims) <= axis < len(dims):
        _note_limit(facts, dims[axis], factor, shift)


def _note_limit(facts: Facts, limit: int | None, factor: int, shift: int) -> None:
    if limit is None:
        return
    # 0 <= factor * element + shift < limit
    low, high = -(shift // factor), -((shift - limit) // factor)
    facts.low = max(facts.low, low)
    facts.limit = high if facts.limit is None else min(facts.limit, high)


def _scalar(value: Any) -> int | float:
    return int(value) if float(value).is_integer() else float(value)


def _plain_constant(attr: onnx.AttributeProto) -> onnx.TensorProto:
    value = onnx.helper.get_attribute_value(attr)
    dtype = np.int64 if attr.name.startswith("value_int") else np.float32
    return onnx.numpy_helper.from_array(np.asarray(value, dtype))


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its functions inlined and the values of its large weights left out."""
    import onnx.inliner

    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for tensor in bare.graph.initializer:
        if np.prod(tensor.dims) > _SMALL:
            for name in ("raw_data", "float_data", "int32_data", "int64_data"):
                tensor.ClearField(name)
            tensor.data_location = onnx.TensorProto.EXTERNAL
    result: onnx.ModelProto = onnx.inliner.inline_local_functions(bare)
    return result
