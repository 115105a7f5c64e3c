"""Matching of the candidate's values to the original's: by name, by the name of their codes, or by provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from ...ir import Array
from ..onnx_graph import GraphIndex

_DEQUANTIZED = ("_dequantized", "_DequantizeLinear_Output")
"""Suffixes of dequantized values' names, of graphopt and of onnxruntime's quantizer."""
_CODES = ("_quantized", "_QuantizeLinear_Output", *_DEQUANTIZED)
_GRID_OPERANDS = {
    "QuantizeLinear": 1, "QLinearConv": 6, "QLinearMatMul": 6, "QLinearAdd": 6, "QLinearMul": 6, "QGemm": 7,
    "QLinearSigmoid": 3, "QLinearLeakyRelu": 3, "QLinearSoftmax": 3, "QLinearGlobalAveragePool": 3,
    "QLinearAveragePool": 3, "QLinearConcat": 0,
}  # fmt: skip
"""The slot of the scale of the result's codes, by operator; the zero point is in the next slot. From the specifications
of ONNX (QuantizeLinear, QLinearConv, QLinearMatMul) and of onnxruntime's contributed operators (the others)."""
_CLAMPS = ("Relu", "Clip")
"""Clamps that quantization makes redundant where the codes' range equals the clamp's."""
_KEEPS_CODES = frozenset((
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Slice", "Gather", "Identity", "Expand",
))  # fmt: skip
"""Operators whose results keep the grid of their first operand's codes."""


@dataclass(frozen=True, slots=True)
class Counterpart:
    """A value of the candidate. scale, zero: of its codes, None for a float tensor."""

    name: str
    scale: Array | None = None
    zero: Array | None = None

    def real(self, array: Array) -> Array:
        """The real numbers that the value's elements stand for: scale · (code − zero point)."""
        if self.scale is None:
            return array
        zero = 0.0 if self.zero is None else self.zero.astype(np.float64)
        real: Array = (array.astype(np.float64) - zero) * self.scale.astype(np.float64)
        return real


def computed_values(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The values that depend on an input of the graph, in order, each with the node that computes it."""
    stored = {tensor.name for tensor in graph.initializer}
    live = {given.name for given in graph.input} - stored
    found: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        holds_graph = any(attribute.g.node or attribute.graphs for attribute in node.attribute)
        if holds_graph or any(name in live for name in node.input):
            live.update(node.output)
            found.update((name, node) for name in node.output if name)
    return found


def counterparts(
    original: onnx.ModelProto, candidate: onnx.ModelProto, heirs: Mapping[str, str] | None = None
) -> dict[str, list[Counterpart]]:
    """The possible counterparts in the candidate of each of the original's computed values, in the original's order.

    heirs: from the original's values to the candidate's, by provenance; names take precedence. The name of a value and
    of its codes may differ: onnxruntime's quantizer removes a Relu where the codes begin at zero; then the value before
    the codes keeps the Relu's name, or the codes have the name of the value before the Relu.
    """
    index = GraphIndex(candidate)
    theirs = computed_values(candidate.graph)
    by_stem = _by_stem(theirs)
    found: dict[str, list[Counterpart]] = {}
    for name, node in computed_values(original.graph).items():
        named = [name, *by_stem.get(name, ())]
        if node.op_type in _CLAMPS and not any(option in theirs for option in named):
            named += by_stem.get(node.input[0], ())
        matches = [match for option in named if (match := _counterpart(option, theirs, index)) is not None]
        if not matches and heirs and name in heirs:
            matches = [match for match in (_counterpart(heirs[name], theirs, index),) if match is not None]
        if matches:
            found[name] = matches
    return found


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of dequantized values, then of codes, by the name of the quantized value."""
    stems: dict[str, list[str]] = {}
    for name in names:
        for suffix in _CODES:
            stem = name.partition("/duplicated")[0].removesuffix(suffix)
            if name.partition("/duplicated")[0].endswith(suffix):
                stems.setdefault(stem, []).insert(0 if suffix in _DEQUANTIZED else len(stems.get(stem, ())), name)
    return stems


def _counterpart(name: str, theirs: Mapping[str, onnx.NodeProto], index: GraphIndex) -> Counterpart | None:
    """The candidate's value of this name; None if missing, or for codes on an unknown grid."""
    node = theirs.get(name)
    if node is None:
        return None
    if not _is_codes(name, node, theirs):
        return Counterpart(name)
    operands = _grid_of(name, theirs, index)
    scale = None if operands is None else index.array(operands[0])
    if operands is None or scale is None or scale.size != 1:
        return None
    zero = index.array(operands[1]) if operands[1] else None
    return None if zero is None and operands[1] else Counterpart(name, scale.reshape(()), _scalar(zero))


def _scalar(zero: Array | None) -> Array | None:
    return None if zero is None else zero.reshape(())


def _is_codes(name: str, node: onnx.NodeProto, theirs: Mapping[str, onnx.NodeProto]) -> bool:
    for _ in range(len(theirs)):
        if node.op_type in _GRID_OPERANDS:
            return True
        before = theirs.get(node.input[0]) if node.op_type in _KEEPS_CODES and node.input else None
        if before is None:
            return False
        node = before
    return False


def _grid_of(name: str, theirs: Mapping[str, onnx.NodeProto], index: GraphIndex) -> tuple[str, str] | None:
    """The names of scale and zero point ("" for none) of a value's codes, from a reader or from the producer."""
    for _ in range(len(theirs)):
        for reader, slot in index.consumers.get(name, ()):
            if reader.op_type == "DequantizeLinear" and slot == 0:
                return reader.input[1], reader.input[2] if len(reader.input) > 2 else ""
        node = theirs.get(name)
        if node is None:
            return None
        slot = _GRID_OPERANDS.get(node.op_type, -1)
        if slot >= 0:
            return (node.input[slot], node.input[slot + 1] if len(node.input) > slot + 1 else "")
        if node.op_type not in _KEEPS_CODES:
            return None
        name = node.input[0]
    return None
