"""Layers with channels, and the operators that must change when channels are removed.

During the analysis, `outputs`, `inputs` and `elements` hold elements; in the facts, classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir import Node, Value
from .elements import Ids

NEIGHBOURS, STATISTICS, RANGE = "neighbours", "statistics", "range"
"""Why removal is inexact: the value of a kept channel depends on its neighbors, on a mean or another statistic over
channels, or (in its last digit) on the range of its dynamically quantized tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightedLayer:
    """A layer with a weight: the channels of its input and of its output, one element each; None where they are fixed.

    kind: "dense", "grouped", "depthwise", "table" (an embedding, which reads no channels), "recurrent" (with fixed
    outputs) or "norm" (a refitted BatchNormalization). `in_axis` and `out_axis` are axes of the weight; in a grouped
    layer one of them counts within a group only.
    """

    node: Node
    weight: Value
    kind: str
    groups: int
    out_axis: int
    in_axis: int | None
    outputs: Ids | None
    inputs: Ids | None

    @property
    def data(self) -> tuple[int, int]:
        """The input slot of the data, and the axis of the channels there."""
        op = self.node.op.removeprefix("com.microsoft::")
        if "Conv" in op or op in ("Gemm", "QGemm"):
            return 0, 1
        second = 3 if op == "QLinearMatMul" else 1
        if "MatMul" in op and self.node.inputs[second] is not self.weight:
            return second, -2
        return 0, -1

    @property
    def weight_slot(self) -> int:
        """The input slot of the weight."""
        return self.node.inputs.index(self.weight)


@dataclass(frozen=True, slots=True, eq=False)
class SizeUpdate:
    """A constant or attribute that holds sizes of axes: entry `i` becomes the number of kept positions of `counts[i]`.

    slot: the input that holds the sizes; None if the attribute `name` does. base: the present sizes.
    """

    node: Node
    slot: int | None
    name: str
    base: tuple[int, ...]
    counts: Mapping[int, Ids]


@dataclass(frozen=True, slots=True, eq=False)
class ConstantGather:
    """A Gather by the constant `indices` on `axis` whose positions hold `elements`; its indices are renumbered."""

    node: Node
    axis: int
    indices: tuple[int, ...]
    elements: Ids


@dataclass(frozen=True, slots=True, eq=False)
class Shuffle:
    """Reshape, Transpose, Reshape that reorder `axis` by `order`: out[i] = in[order[i]]."""

    nodes: tuple[Node, Node, Node]
    axis: int
    order: Ids
    elements: Ids


@dataclass(frozen=True, slots=True, eq=False)
class ActivationProduct:
    """A MatMul of two activations, which sums over `elements`; removed elements leave the sum."""

    node: Node
    elements: Ids

    @property
    def operands(self) -> tuple[Value | None, Value | None]:
        """Both operands; the sum runs over the last axis of the first and the second to last axis of the second."""
        return self.node.inputs[0], self.node.inputs[3 if self.node.op == "QLinearMatMul" else 1]


@dataclass(frozen=True, slots=True, eq=False)
class InputSelection:
    """A layer that can read a subset of channels that stay for other readers, by a Gather on `axis` of input `slot`."""

    node: Node
    slot: int
    axis: int
    elements: Ids


@dataclass(frozen=True, slots=True, eq=False)
class GrowingReduction:
    """A reduction over `elements` whose result grows with their number, such as a sum."""

    node: Node
    elements: Ids
