"""Postprocessed outputs: the best class, probabilities, the boxes that NonMaxSuppression keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ..errors import OptionError
from ..ir import Constant, DType, Graph, Model, Node, Port, TensorType, Value, clone_model
from ..ops import infer
from .step import Step, named, output_names

FORMS = ("argmax", "softmax", "sigmoid")
"""The operators that `Finish` can append to an output."""


@dataclass(frozen=True, slots=True)
class Finish(Step):
    """Replace a float output by one of `FORMS` of it, under its name; argmax gives int64 without the axis."""

    output: str
    form: str
    axis: int = -1

    @classmethod
    def of(cls, output: str, word: str) -> Finish:
        """The step for a word such as "argmax" or "argmax:1". OptionError."""
        form, colon, axis = word.partition(":")
        try:
            return cls(output, named(form.lower(), FORMS, "form of an output"), int(axis) if colon else -1)
        except ValueError:
            raise OptionError(f"output {output!r} as {word!r}: the axis is a number, as in argmax:1") from None

    def apply(self, model: Model) -> Model:
        """The model with the operator after the output. OptionError where it has no such float tensor."""
        copy = clone_model(model)
        place = output_names(copy).index(named(self.output, output_names(copy), "output"))
        value = copy.graph.outputs[place]
        rank, axis = _floats(self.output, value), self.axis
        if rank is not None and not -rank <= axis < rank:
            raise OptionError(f"output {self.output!r} as {self.form}: {value.type} has no axis {axis}")
        axis = axis if rank is None else axis % rank
        is_last = axis == (-1 if rank is None else rank - 1)
        if self.form == "softmax" and copy.opset < 13 and not (is_last and copy.opset >= 11):
            raise OptionError(f"output {self.output!r} as softmax: over axis {axis} needs opset 13; convert first")
        op, attrs = {
            "argmax": ("ArgMax", {"axis": axis, "keepdims": 0}), "softmax": ("Softmax", {"axis": axis}),
            "sigmoid": ("Sigmoid", {}),
        }[self.form]  # fmt: skip
        _return(copy.graph, place, _add(copy.graph, op, [value], attrs))
        return copy

    def expected(self, model: Model) -> Model:
        """The given model with the operator after the output."""
        return self.apply(model)

    def __str__(self) -> str:
        return f"{self.output} as {self.form} over axis {self.axis}"


@dataclass(frozen=True, slots=True)
class Suppression(Step):
    """NonMaxSuppression of boxes [N, B, 4] by scores [N, C, B] (or [N, B, C]).

    The outputs become boxes [K, 4] and scores [K], and "selected" is a third, int64 [K, 3]: image, class, box. iou:
    boxes that overlap more exclude each other. most: boxes kept of each class and image. centers: boxes are centre and
    size, not two corners.
    """

    boxes: str
    scores: str
    iou: float = 0.5
    min_score: float = 0.05
    most: int = 100
    centers: bool = False

    SELECTED: ClassVar[str] = "selected"
    OLDEST: ClassVar[int] = 11
    """The opset that introduced GatherND, one after NonMaxSuppression's."""

    def apply(self, model: Model) -> Model:
        """The model with NonMaxSuppression after its outputs. OptionError where these are not boxes and scores."""
        copy = clone_model(model)
        graph, names = copy.graph, output_names(copy)
        places = [names.index(named(name, names, "output")) for name in (self.boxes, self.scores)]
        boxes, scores = (graph.outputs[place] for place in places)
        for name, value in ((self.boxes, boxes), (self.scores, scores)):
            if _floats(name, value) != 3 or not isinstance(value.type, TensorType) or value.type.dtype != DType.FLOAT:
                raise OptionError(f"nms: {name!r} is {value.type}, expected f32 [N, B, 4] boxes and [N, C, B] scores")
        if copy.opset < self.OLDEST:
            raise OptionError(f"nms: needs opset {self.OLDEST}, the model has {copy.opset}; convert it first")
        if self.SELECTED in names or any(v.name == self.SELECTED for v in graph.inputs):
            raise OptionError(f"nms: the model has {self.SELECTED!r} already; rename it first")
        if not (0 <= self.iou <= 1 and self.most > 0):
            raise OptionError("nms: iou is 0 to 1, and at least one box is kept")
        last, count = _size(boxes, 2), _size(boxes, 1)
        if last not in (4, None):
            raise OptionError(f"nms: {self.boxes!r} is {boxes.type}, expected four numbers a box, as its last axis")
        if count is not None and _size(scores, 1) == count and _size(scores, 2) != count:
            scores = _add(graph, "Transpose", [scores], {"perm": (0, 2, 1)})
        limits = [np.array([self.most]), np.array([self.iou], np.float32), np.array([self.min_score], np.float32)]
        given = [boxes, scores, *(Value(constant=Constant.of(limit)) for limit in limits)]
        selected = _add(graph, "NonMaxSuppression", given, {"center_point_box": int(self.centers)})
        place = Value(constant=Constant.of(np.array([0, 2])))
        which = _add(graph, "Gather", [selected, place], {"axis": 1})
        _return(graph, places[0], _add(graph, "GatherND", [boxes, which], {}))
        _return(graph, places[1], _add(graph, "GatherND", [scores, selected], {}))
        graph.set_outputs([*graph.outputs, selected], [*graph.ports, Port(self.SELECTED, selected.type)])
        return copy

    def expected(self, model: Model) -> Model:
        """The given model with the operators after its outputs."""
        return self.apply(model)

    def __str__(self) -> str:
        return f"keep the best of {self.boxes} by {self.scores}: iou {self.iou:g}, {self.min_score:g} or more"


def _floats(name: str, value: Value) -> int | None:
    """The rank of a float output, None if unknown. OptionError for any other output, and for a scalar."""
    type = value.type
    if not isinstance(type, TensorType) or not type.dtype.is_float or type.shape == ():
        raise OptionError(f"output {name!r}: expected a tensor of floats, it is {type}")
    return type.rank


def _size(value: Value, axis: int) -> int | None:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    size = None if shape is None else shape[axis]
    return size if isinstance(size, int) else None


def _add(graph: Graph, op: str, inputs: list[Value], attrs: Mapping[str, object]) -> Value:
    node = Node(op, inputs, attrs, 1)
    graph.append(node)
    node.output.type = infer(node)[0]
    return node.output


def _return(graph: Graph, place: int, value: Value) -> None:
    """Replace an output by another value, under the same name."""
    ports, results = list(graph.ports), list(graph.outputs)
    ports[place], results[place] = replace(ports[place], type=value.type), value
    graph.set_outputs(results, ports)
