"""The semantics of a model's inputs, derived from the operators that consume them.

A token id indexes a table, a mask selects, a sampling rate is compared with 16000: each input is followed downstream
through operators that keep its elements to the operators whose slot reveals its meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx

from ..onnx_graph import GraphIndex
from ..value_info import Signature

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

# Slots that take a size, a count or a position.
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
class InputFacts:
    """The semantics of one input.

    `limit`: the size of the smallest table that its elements index (after undoing constant shifts); `low`: the smallest
    element with an index that is not negative; `tables`: indexed values of unknown size, with the axis; `choices`:
    constants with which its elements are compared; `roles`: among mask, size, length, index, positive, threshold,
    compared.
    """

    limit: int | None = None
    low: int = 0
    tables: list[tuple[str, int]] = field(default_factory=list)
    choices: set[int | float | str] = field(default_factory=set)
    roles: set[str] = field(default_factory=set)


def read_facts(model: Signature, index: GraphIndex) -> dict[str, InputFacts]:
    """The facts of every input of the model."""
    return {info.name: _follow(info.name, index) for info in model.inputs}


def _follow(name: str, index: GraphIndex) -> InputFacts:
    facts = InputFacts()
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
    facts: InputFacts, index: GraphIndex, node: onnx.NodeProto, slot: int, factor: int, shift: int
) -> Iterator[tuple[str, int, int]]:
    """Record the meaning of slot `slot` of `node`; yield the outputs that still hold the elements."""
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
    facts: InputFacts, index: GraphIndex, node: onnx.NodeProto, slot: int, factor: int, shift: int
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


def _note_index(facts: InputFacts, index: GraphIndex, node: onnx.NodeProto, slot: int, factor: int, shift: int) -> None:
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


def _note_limit(facts: InputFacts, limit: int | None, factor: int, shift: int) -> None:
    if limit is None:
        return
    # 0 <= factor * element + shift < limit
    low, high = -(shift // factor), -((shift - limit) // factor)
    facts.low = max(facts.low, low)
    facts.limit = high if facts.limit is None else min(facts.limit, high)


def _scalar(value: Any) -> int | float:
    return int(value) if float(value).is_integer() else float(value)
