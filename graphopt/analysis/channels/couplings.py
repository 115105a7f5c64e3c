"""Layers, and the operators that must change with the channels that are removed."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir import Node, Value
from .elements import Ids

NEIGHBOURS, STATISTICS, RANGE = "neighbours", "statistics", "range"
"""Ways in which removal is not exact: what a channel becomes depends on its neighbours, on a mean or another statistic
over channels, or (in its last digit) on the range of all that is quantized with it while the model runs."""


@dataclass(slots=True)
class Linear:
    """A layer with a weight: what it reads (`inputs`, None where fixed) and makes (`outputs`), one element a channel.

    kind: "dense", "grouped", "depthwise", "table" (an embedding, which reads no channels) or "recurrent" (whose outputs
    stay). `in_axis` and `out_axis` are axes of the weight; in a grouped layer one of them counts within a group only.
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
        """The input slot of the data it reads, and the axis of the channels there."""
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


@dataclass(slots=True)
class Resize:
    """Numbers of a constant or attribute that count elements: entry `i` becomes how many of `counts[i]` are kept.

    slot: the input that holds them; None where they are the attribute `name`. `base` is what they are now.
    """

    node: Node
    slot: int | None
    name: str
    base: tuple[int, ...]
    counts: dict[int, Ids] = field(default_factory=dict)


@dataclass(slots=True)
class Choice:
    """A Gather by the constant `indices` on `axis` whose positions hold `elements`; what is taken is renumbered."""

    node: Node
    axis: int
    indices: tuple[int, ...]
    elements: Ids


@dataclass(slots=True)
class Shuffle:
    """Reshape, Transpose, Reshape that reorder `axis` by `order`: out[i] = in[order[i]]."""

    nodes: tuple[Node, Node, Node]
    axis: int
    order: Ids
    elements: Ids


@dataclass(slots=True)
class Partition:
    """Positions in equal parts [parts, size], of which an equal number must be kept in every part (grouped layers)."""

    node: Node
    parts: Ids


@dataclass(slots=True)
class Product:
    """A MatMul of two computed values, which sums over `elements`: without some of them it is that of the others."""

    node: Node
    elements: Ids


@dataclass(slots=True)
class Selection:
    """A layer whose inputs stay for others reads only some of them: a Gather on `axis` of input `slot` picks them."""

    node: Node
    slot: int
    axis: int
    elements: Ids


@dataclass(slots=True)
class Statistic:
    """A reduction over `elements` whose result grows with their number."""

    node: Node
    elements: Ids
