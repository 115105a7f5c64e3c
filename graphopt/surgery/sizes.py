"""Resize inputs: a size by its name, the batch, or any axis, also where the file fixes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import numpy as np

from ..equivalence import Comparison, Feeds, synthesise
from ..errors import GraphoptError, OptionError, one_line
from ..ir import Constant, Dim, Graph, Model, Node, Port, TensorType, Value, clone_model
from ..onnx_io import infer_types
from ..ops import update_types
from ..passes.clean import drop_zero_states
from ..passes.shapes.inputs import specialise_inputs
from ..pipeline.driver import run_pass
from .step import Judge, Step, append, named, results, with_graph

BATCH = "batch"
"""The key for the first axis of all inputs where no size has this name."""
_SLICES = 10
"""The opset from which Slice takes its limits as inputs."""
_END = np.iinfo(np.int64).max

Places = dict[str, dict[int, int | str]]
"""New sizes by input name and axis."""


@dataclass(frozen=True, slots=True)
class SetSizes(Step):
    """Sizes of inputs, by name ("N"), as "batch" (first axes), or as input and axis ("x:0"): a number or a name.

    Where the file fixes a number, Reshape targets that contain it are updated. The result is compared with the given
    model at sizes that both accept. Where the number becomes a multiple or a name, the edited model on slices along the
    axis is compared with the given model on each slice: conclusive for a batch. Where it becomes another number (an
    image's height), the edited model is compared at the old size, and must run at the new size.
    """

    sizes: Mapping[str, int | str]
    alone: ClassVar[bool] = True

    def apply(self, model: Model) -> Model:
        """The model at these sizes. OptionError for an unknown name; InputError where sizes contradict each other."""
        places = self._places(model)
        copy = clone_model(model)
        free = _fixed(copy, places)
        opened = {name: {a: d for a, d in axes.items() if a not in free.get(name, {})} for name, axes in places.items()}
        ranks = {v.name: len(shape) for v in copy.graph.inputs if (shape := _shape(v)) is not None}
        shapes = {name: [axes.get(axis) for axis in range(ranks[name])] for name, axes in opened.items() if axes}
        if shapes:
            specialise_inputs(copy, shapes)
        if free:
            _release(copy, free)
        return copy

    def judge(self, before: Model, after: Model, feeds: list[Feeds] | None, judge: Judge) -> Comparison:
        """The comparison at sizes that both models accept, or of slices along the changed axes."""
        fitting = self.translate(before, feeds, judge)
        free = _fixed(before, self._places(before))
        if not free:
            reason = ""
            try:  # inputs of the given model need not have these sizes
                fitting = fitting or synthesise(after, judge.samples, judge.seed)
            except GraphoptError as error:
                reason = f"the model was not seen to run at these sizes: {one_line(error)}"
            found = judge.compare(before, after, fitting)
            return replace(found, reason=reason) if reason and found.status == "unverified" else found
        pieces = _pieces(before, free)
        if pieces and before.opset >= _SLICES:
            return judge.compare(_by_parts(before, after, pieces), _parts_of(before, after, pieces), fitting)
        old = {name: dict.fromkeys(axes) for name, axes in free.items()}
        found = judge.compare(before, _with_inputs(after, old), feeds)
        if found.is_equal:
            try:
                synthesise(after, 1, judge.seed)
            except GraphoptError as error:
                reason = f"at the new sizes it does not run: {one_line(error)}"
                return replace(found, status="different", reason=reason)
        return found

    def translate(self, before: Model, feeds: list[Feeds] | None, judge: Judge) -> list[Feeds] | None:
        """The given feeds that have the new sizes; None, for made-up feeds, if no feed has."""
        places = self._places(before)

        def fits(feed: Feeds) -> bool:
            sizes = (
                (np.shape(feed[name])[axis], size) for name, axes in places.items() if name in feed
                for axis, size in axes.items()
            )  # fmt: skip
            return all(isinstance(size, str) or have == size for have, size in sizes)

        return [feed for feed in feeds or () if fits(feed)] or None

    def _places(self, model: Model) -> Places:
        """Every input axis to resize, with its new size. OptionError."""
        shapes = {v.name: shape for v in model.graph.inputs if v.default is None and (shape := _shape(v)) is not None}
        places: Places = {}
        for key, size in self.sizes.items():
            if isinstance(size, bool) or not isinstance(size, (int, str)) or (isinstance(size, int) and size < 1):
                raise OptionError(f"dims {key}={size!r}: a size is a positive number or a name")
            if isinstance(size, str) and not size.isidentifier():
                raise OptionError(f"dims {key}={size!r}: write a positive number, or a name of letters and digits")
            taken = {d for shape in shapes.values() for d in shape if isinstance(d, str)}
            if size in taken and size != key:
                raise OptionError(f"dims {key}={size}: the model has a size {size!r} already")
            for name, axis in _axes(key, shapes):
                places.setdefault(name, {})[axis] = size
        return places

    def __str__(self) -> str:
        return "dims " + ", ".join(f"{name}={size}" for name, size in self.sizes.items())


def _axes(key: str, shapes: Mapping[str, Sequence[Dim]]) -> list[tuple[str, int]]:
    """The inputs and axes that a key denotes. OptionError."""
    everywhere = [(name, axis, d) for name, shape in shapes.items() for axis, d in enumerate(shape)]
    if by_name := [(name, axis) for name, axis, d in everywhere if d == key]:
        return by_name
    name, colon, axis = key.rpartition(":")
    if colon and name in shapes and axis.lstrip("-").isdecimal():
        rank = len(shapes[name])
        if not -rank <= int(axis) < rank:
            raise OptionError(f"dims {key}: {name!r} has {rank} axes")
        size = shapes[name][int(axis)]
        return [(n, a) for n, a, d in everywhere if d == size] if isinstance(size, str) else [(name, int(axis) % rank)]
    firsts = {shape[0] for shape in shapes.values() if shape}
    if key == BATCH and firsts and (len(firsts) == 1 or not any(isinstance(d, int) for d in firsts)):
        return [(name, 0) for name, shape in shapes.items() if shape]
    if key == BATCH and firsts:
        told = ", ".join(f"{n}: {shape[0]}" for n, shape in list(shapes.items())[:4] if shape)
        raise OptionError(f"dims {key}: the inputs differ in their first size ({told}); write each as NAME:AXIS")
    known = dict.fromkeys(
        [*(d for _, _, d in everywhere if isinstance(d, str)), *(f"{n}:{a}" for n, a, _ in everywhere)]
    )
    named(key, known, "size")
    raise AssertionError(key)


def _shape(value: Value) -> tuple[Dim, ...] | None:
    return value.type.shape if isinstance(value.type, TensorType) else None


def _sizes(value: Value | None) -> tuple[int, ...] | None:
    return value.type.sizes if value is not None and isinstance(value.type, TensorType) else None


def _fixed(model: Model, places: Places) -> Places:
    """The places where the model fixes a different number."""
    shapes = {v.name: _shape(v) or () for v in model.graph.inputs}
    found = {
        name: {a: size for a, size in axes.items() if isinstance(shapes[name][a], int) and shapes[name][a] != size}
        for name, axes in places.items()
    }
    return {name: axes for name, axes in found.items() if axes}


# -- numbers of the file that change


def _release(model: Model, free: Places) -> None:
    """Give the inputs other sizes than the file's, in place, and update targets of Reshape and Expand.

    Updates are derived with numbers, twice the old size where the new size is a name; they hold for any size.
    """
    graph = model.graph
    if any(node.op in ("LSTM", "GRU", "RNN") for node in graph):
        run_pass(model, drop_zero_states)
    old = {v: _sizes(v) for v in (*graph.inputs, *(v for node in graph for v in node.outputs))}
    probe: dict[str, dict[int, Dim]] = {}
    for value in graph.inputs:
        shape = old[value] or _shape(value) or ()
        changed = free.get(value.name, {})
        probe[value.name] = {}
        for axis, size in changed.items():
            known = shape[axis]
            assert isinstance(known, int)
            probe[value.name][axis] = 2 * known if isinstance(size, str) else size
    units = {shape[a] for v in graph.inputs for a in free.get(v.name, ()) if (shape := old[v] or _shape(v) or ())}
    unit = next(iter(units)) if len(units) == 1 else None
    _set_inputs(graph, probe)
    for node in graph:
        _forget(node)
        if node.op in ("Reshape", "Expand"):
            _follow(graph, node, old, unit)
        update_types(node)
    _infer_anew(model, {name: dict(axes) for name, axes in free.items()})


def _infer_anew(model: Model, sizes: Mapping[str, Mapping[int, Dim]]) -> None:
    """Set sizes of inputs, and re-infer all other types, those of the outputs included."""
    graph = model.graph
    _set_inputs(graph, sizes)
    for node in graph:
        _forget(node)
    infer_types(model)
    graph.ports = tuple(
        replace(port, type=value.type) if isinstance(value.type, TensorType) else port
        for port, value in zip(graph.ports, graph.outputs)
    )


def _set_inputs(graph: Graph, sizes: Mapping[str, Mapping[int, Dim]]) -> None:
    for value in graph.inputs:
        new = sizes.get(value.name)
        if new and isinstance(value.type, TensorType) and value.type.shape is not None:
            shape = tuple(new.get(axis, d) for axis, d in enumerate(value.type.shape))
            value.type = TensorType(value.type.dtype, shape)


def _with_inputs(model: Model, sizes: Mapping[str, Mapping[int, Dim]]) -> Model:
    copy = clone_model(model)
    _infer_anew(copy, sizes)
    return copy


def _forget(node: Node) -> None:
    """Erase the shapes of results, which inference would otherwise keep."""
    for value in node.outputs:
        if isinstance(value.type, TensorType):
            value.type = TensorType(value.type.dtype, None)


def _follow(graph: Graph, node: Node, old: Mapping[Value, tuple[int, ...] | None], unit: Dim) -> None:
    """Update a constant target for the one changed axis of the operand; other and ambiguous targets stay.

    unit: the changed size, of which axes may be multiples; None where several sizes change.
    """
    x, target = node.inputs[0], node.constant(1)
    if x is None or target is None:
        return
    before, after, shape = old.get(x), _sizes(x), old.get(node.output)
    if before is None or after is None or shape is None or before == after or len(before) != len(after):
        return
    given = target.array().reshape(-1).tolist()
    if node.op == "Expand":
        skip = len(shape) - len(before)
        moved = [1 if i >= skip and before[i - skip] != after[i - skip] else d for i, d in enumerate(given)]
    else:
        changed = [axis for axis, (m, n) in enumerate(zip(before, after)) if m != n]
        axis = _counterpart(before, changed[0], shape, unit) if len(changed) == 1 else None
        if axis is None or len(given) != len(shape):
            return
        copies = given[axis] == 0 and not node.attrs.get("allowzero")
        if given[axis] == -1 or (copies and axis == changed[0]):
            return
        moved = [shape[i] if d == -1 else d for i, d in enumerate(given)]
        moved[axis] = -1
    if moved != given:
        graph.set_input(node, 1, Value(constant=Constant.of(np.array(moved, np.int64))))


def _counterpart(before: Sequence[int], axis: int, shape: Sequence[int], unit: Dim) -> int | None:
    """The axis of a reshaped tensor that corresponds to an operand's axis: as many elements precede it.

    Of several candidates the first divisible by `unit`: a batch is the outermost of the axes merged with it.
    """
    ahead, size = prod(before[:axis]), unit if isinstance(unit, int) and unit else before[axis]
    for place, extent in enumerate(shape):
        if prod(shape[:place]) == ahead and extent % size == 0:
            return place
    inside = (i for i in range(len(shape)) if prod(shape[:i]) < ahead < prod(shape[: i + 1]))
    return next(inside, None)


# -- the comparison of parts


def _pieces(model: Model, free: Places) -> list[tuple[int, int]]:
    """Start and end of slices, in multiples of the old size, of the first slice and the last; empty where undefined.

    Negative multiples count from the end.
    """
    shapes = {v.name: _shape(v) or () for v in model.graph.inputs}
    counts: set[int] = set()
    for name, axes in free.items():
        if len(axes) > 1:
            return []
        for axis, size in axes.items():
            old = shapes[name][axis]
            if isinstance(size, str):
                counts.add(0)
            elif isinstance(old, int) and size % old == 0:
                counts.add(size // old)
            else:
                return []
    return [(0, 1), (-1, 0)] if len(counts) == 1 else []


def _part(graph: Graph, value: Value, axis: int, size: int, piece: tuple[int, int]) -> Value:
    """A slice of a value along one axis, between multiples of `size`; (-1, 0) is the last slice."""
    start, end = piece[0] * size, piece[1] * size or _END
    limits = [Value(constant=Constant.of(np.array([n], np.int64))) for n in (start, end, axis)]
    return graph.append(Node("Slice", [value, *limits], None, 1)).output


def _by_parts(before: Model, after: Model, pieces: list[tuple[int, int]]) -> Model:
    """The given model on each slice of the new inputs, its results concatenated."""
    source = before.graph
    graph = Graph(source.name)
    given = {v.name: v for v in after.graph.inputs}
    entered = {v: graph.add_input(Value(given[v.name].type, v.name)) for v in source.inputs if v.default is None}
    runs: list[list[Value]] = []
    for piece in pieces:
        values = {v: Value(v.type, constant=v.default) for v in source.inputs if v.default is not None}
        for old, new in entered.items():
            axis = _changed(old, given[old.name])
            size = None if axis is None else (_shape(old) or ())[axis]
            values[old] = new
            if axis is not None and isinstance(size, int):
                values[old] = _part(graph, new, axis, size, piece)
                values[old].type = old.type
        append(graph, source.snapshot(), values, again=True)
        runs.append(results(source, values))
    ends = []
    for parts, old, new in zip(zip(*runs), source.outputs, after.graph.outputs):
        axis = _changed(old, new)
        joined = parts[0] if axis is None else graph.append(Node("Concat", parts, {"axis": axis}, 1)).output
        ends.append(joined)
    graph.set_outputs(ends, [Port(port.name) for port in source.ports])
    return with_graph(before, graph)


def _parts_of(before: Model, after: Model, pieces: list[tuple[int, int]]) -> Model:
    """The new model, with the same slices of its results concatenated."""
    copy = clone_model(after)
    graph, ends = copy.graph, list[Value]()
    for old, new in zip(before.graph.outputs, list(graph.outputs)):
        axis = _changed(old, new)
        size = None if axis is None else (_shape(old) or ())[axis]
        if axis is None or not isinstance(size, int):
            ends.append(new)
            continue
        parts = [_part(graph, new, axis, size, piece) for piece in pieces]
        ends.append(graph.append(Node("Concat", parts, {"axis": axis}, 1)).output)
    graph.set_outputs(ends, [Port(port.name) for port in graph.ports])
    return with_graph(copy, graph)


def _changed(old: Value, new: Value) -> int | None:
    """The first axis whose fixed size changed; None for none."""
    shapes = zip(_shape(old) or (), _shape(new) or ())
    return next((axis for axis, (m, n) in enumerate(shapes) if isinstance(m, int) and m != n), None)
