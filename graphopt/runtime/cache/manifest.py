"""Recipes: what a session must know of its model in order to run it. They can be kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...ir import Array, Node, TensorType, Type, Value
from ..compile.layouts import Shape
from ..execute.ort_segment import extract
from ..lower.operands import constant_array
from ..lower.operations import PRODUCTS, Operation
from ..place.lowered_model import LoweredModel
from ..place.partition import Segment


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the model; `default` is what it is where nothing is fed."""

    name: str
    type: Type | None
    default: Array | None


@dataclass(frozen=True, slots=True)
class Output:
    """An output of the model: the value with this number, or a constant."""

    name: str
    type: Type | None
    place: int
    constant: Array | None


@dataclass(frozen=True, slots=True)
class Part:
    """One segment: it reads and writes values by number. `model` is its ONNX file where onnxruntime runs it.

    `shapes` are a region's input shapes where the model fixes them.
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    operators: Mapping[str, int]
    refusals: tuple[str, ...]
    products: int
    shapes: tuple[Shape, ...] | None
    model: bytes | None

    @property
    def is_region(self) -> bool:
        """Whether kernels run it."""
        return self.model is None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The model's face and its parts in order; `values` are numbered, inputs first. `whole`: all is onnxruntime's."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    parts: tuple[Part, ...]
    values: int
    whole: bool


def manifest_of(lowered: LoweredModel) -> Manifest:
    """The recipe of a lowered model."""
    graph, segments = lowered.model.graph, lowered.segments
    places: dict[Value, int] = {}
    for value in (*graph.inputs, *(v for segment in segments for v in segment.outputs)):
        places.setdefault(value, len(places))
    whole = not any(segment.is_region for segment in segments)
    return Manifest(
        tuple(_input(value) for value in graph.inputs),
        tuple(
            Output(port.name, value.type, places.get(value, -1), None if value in places else constant_array(value))
            for port, value in zip(graph.ports, graph.outputs)
        ),
        tuple(_part(lowered, segment, places, whole) for segment in segments),
        len(places),
        whole,
    )


def _input(value: Value) -> Input:
    return Input(value.name, value.type, None if value.default is None else np.array(value.default.array()))


def _part(lowered: LoweredModel, segment: Segment, places: Mapping[Value, int], whole: bool) -> Part:
    refusals = lowered.coverage.refusals
    operators: dict[str, int] = {}
    for unit in segment.units:
        name = type(unit).__name__ if isinstance(unit, Operation) else unit.op
        operators[name] = operators.get(name, 0) + 1
    model: bytes | None = None
    if not segment.is_region:
        model = b"" if whole else extract(lowered.model, segment)
    return Part(
        tuple(places[value] for value in segment.inputs),
        tuple(places[value] for value in segment.outputs),
        operators,
        tuple(sorted({refusals[u] for u in segment.units if isinstance(u, Node) and u in refusals})),
        sum(isinstance(operation, PRODUCTS) for operation in segment.operations),
        _fixed_shapes(segment) if segment.is_region else None,
        model,
    )


def _fixed_shapes(segment: Segment) -> tuple[Shape, ...] | None:
    shapes = [v.type.shape for v in segment.inputs if isinstance(v.type, TensorType) and v.type.is_static]
    return tuple(shapes) if len(shapes) == len(segment.inputs) else None  # type: ignore[arg-type]
