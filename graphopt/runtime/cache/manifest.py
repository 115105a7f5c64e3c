"""Manifests: inputs, outputs and parts of a model, all a session needs to run it; they can be cached on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...analysis.positions import position_limit
from ...ir import Array, Node, TensorType, Type, Value
from ..compile.growth import growing_axes
from ..lower.operands import constant_array
from ..lower.traits import Operation, Shape
from ..place.extract import extract
from ..place.lowered_model import LoweredModel
from ..place.partition import Segment

COMPUTED = "stored weights are computed once, as onnxruntime loads them"
"""The line in which a session describes a model that runs whole in onnxruntime with its weights computed at loading."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the model; `default` is its value where the feeds lack it."""

    name: str
    type: Type | None
    default: Array | None


@dataclass(frozen=True, slots=True)
class Output:
    """An output of the model: value number `place`, or `constant` where `place` is −1."""

    name: str
    type: Type | None
    place: int
    constant: Array | None


@dataclass(frozen=True, slots=True)
class Part:
    """One segment, which reads and writes values by number. `model`: its ONNX file, None for a region on kernels.

    `operators`: their count by name; `products`: the number of multiply-accumulate operations on kernels. `refusals`:
    why nodes are left to onnxruntime; `decision`: the times that put a region on kernels. `shapes`: a region's input
    shapes where the model fixes them. `growing`: a region's inputs that are longer in each run, and their axes.
    `sized`: values whose shape is all that nodes read.
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    operators: Mapping[str, int]
    refusals: tuple[str, ...]
    products: int
    shapes: tuple[Shape, ...] | None
    model: bytes | None
    decision: str = ""
    growing: tuple[tuple[int, int], ...] = ()
    sized: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The model's inputs and outputs, its parts in the order they run, and the number of its `values`, inputs first.

    `whole`: onnxruntime runs the whole model, from its own file; `computed`: it computes stored weights as it loads.
    `verdict`: the reason for this partition.
    `positions`: the most tokens that the model's position tables hold, None where it has no such table.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    parts: tuple[Part, ...]
    values: int
    whole: bool
    verdict: str = ""
    positions: int | None = None
    computed: bool = False


def manifest_of(lowered: LoweredModel) -> Manifest:
    """The manifest of a lowered model."""
    graph, segments = lowered.model.graph, lowered.segments
    places: dict[Value, int] = {}
    for value in (*graph.inputs, *(v for segment in segments for v in segment.outputs)):
        places.setdefault(value, len(places))
    whole = not any(segment.is_region for segment in segments)
    computed = whole and any(lowered.computes_weights(segment) for segment in segments)
    return Manifest(
        tuple(_input(value) for value in graph.inputs),
        tuple(
            Output(
                port.name,
                _declared(port.type, value.type),
                places.get(value, -1),
                None if value in places else constant_array(value),
            )
            for port, value in zip(graph.ports, graph.outputs)
        ),
        tuple(_part(lowered, segment, places, whole) for segment in segments),
        len(places),
        whole,
        "; ".join(filter(None, (lowered.verdict, COMPUTED if computed else ""))),
        position_limit(lowered.original.graph),
        computed,
    )


def _declared(declared: Type | None, inferred: Type | None) -> Type | None:
    """The declared type of an output, its open sizes filled in from the inferred type."""
    if not isinstance(declared, TensorType) or not isinstance(inferred, TensorType):
        return declared or inferred
    if declared.shape is None or inferred.shape is None or len(declared.shape) != len(inferred.shape):
        return declared
    shape = tuple(i if d is None or isinstance(i, int) else d for d, i in zip(declared.shape, inferred.shape))
    return TensorType(declared.dtype, shape)


def _input(value: Value) -> Input:
    return Input(value.name, value.type, None if value.default is None else np.array(value.default.array()))


def _part(lowered: LoweredModel, segment: Segment, places: Mapping[Value, int], whole: bool) -> Part:
    refusals = lowered.coverage.refusals
    model: bytes | None = None
    if not segment.is_region:
        model = b"" if whole else extract(lowered.model, segment, computed=lowered.computes_weights(segment))
    return Part(
        tuple(places[value] for value in segment.inputs),
        tuple(places[value] for value in segment.outputs),
        dict(Counter(type(unit).__name__ if isinstance(unit, Operation) else unit.op for unit in segment.units)),
        tuple(sorted({refusals[u] for u in segment.units if isinstance(u, Node) and u in refusals})),
        sum(operation.is_product for operation in segment.operations),
        _fixed_shapes(segment) if segment.is_region else None,
        model,
        lowered.decision(segment) if segment.is_region else "",
        growing_axes(segment.operations, segment.inputs),
        frozenset() if segment.is_region else frozenset(places[v] for v in _sized(segment)),
    )


def _sized(segment: Segment) -> list[Value]:
    """The segment's inputs of which its nodes read the shape only."""
    inside = set(segment.units)
    return [
        value
        for value in segment.inputs
        if all(node.op == "Shape" or (node not in inside and node.graph is value.owner) for node in value.users)
    ]


def _fixed_shapes(segment: Segment) -> tuple[Shape, ...] | None:
    shapes = [v.type.shape for v in segment.inputs if isinstance(v.type, TensorType) and v.type.is_static]
    return tuple(shapes) if len(shapes) == len(segment.inputs) else None  # type: ignore[arg-type]
