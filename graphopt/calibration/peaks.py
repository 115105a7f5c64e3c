"""The largest elements of many values, computed by onnxruntime in its own layout and returned as one small tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from ..ir import TensorType, Value
from .observers import Extent

NAME = "graphopt::peaks"
Kind = tuple[int | str, int]


@dataclass(frozen=True, slots=True)
class Peaks:
    """The output NAME [N, ΣC, 1…]: the largest element of each channel of values [N, C, space…].

    channels: each value's slice of that output.
    """

    channels: Mapping[Value, slice]

    def extents(self, seen: Extent) -> Iterator[tuple[Value, Extent]]:
        """The extent of each value, from the extent along the channels of the output."""
        for value, part in self.channels.items():
            extent = Extent()
            extent.low, extent.high = float(seen.low[part].min()), float(seen.high[part].max())
            extent.masked = int(np.any(np.asarray(seen.masked)[part]))
            extent.seen = seen.seen * (part.stop - part.start) // len(seen.high)
            yield value, extent


def add_peaks(graph: onnx.GraphProto, names: Mapping[Value, str], wanted: Iterable[Value]) -> Peaks | None:
    """Add the output NAME to an emitted graph: peaks of the most `wanted` values of equal batch and rank; None if
    none."""
    kinds: dict[Kind, list[Value]] = {}
    for value in wanted:
        kind = _kind(value)
        if kind is not None and value in names:
            kinds.setdefault(kind, []).append(value)
    values = max(kinds.values(), key=len, default=[])
    channels: dict[Value, slice] = {}
    parts, start = [], 0
    for value in values:
        parts.append(f"{names[value]}::peak")
        graph.node.add(op_type="GlobalMaxPool", input=[names[value]], output=[parts[-1]])
        channels[value] = slice(start, start + _channels(value))
        start = channels[value].stop
    if not parts:
        return None
    node = graph.node.add(op_type="Concat", input=parts, output=[NAME])
    node.attribute.add(name="axis", type=onnx.AttributeProto.INT, i=1)
    return Peaks(channels)


def _kind(value: Value) -> Kind | None:
    """The batch size and rank, which tensors must share for Concat along channels; None where unknown."""
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    if shape is None or len(shape) < 3 or shape[0] is None or not isinstance(shape[1], int):
        return None
    return shape[0], len(shape)


def _channels(value: Value) -> int:
    assert isinstance(value.type, TensorType) and value.type.shape is not None
    channels = value.type.shape[1]
    assert isinstance(channels, int)
    return channels
