"""Projections of gradients of a model's results on changes of values, by directions of the results and by samples."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from typing import Any

import numpy as np

from ...errors import InputError, ModelError, one_line
from ...ir import Array, Dim, DType, Graph, Model, Port, TensorType, Value, clone_model
from ...machine.sessions import PACKED_BESIDE, packing, session_options
from ...onnx_io.lend import open_lent
from ...onnx_io.weights import unpacked_bytes
from ..differentiate import is_float
from ..prepare import prepare
from ..reverse import gradients
from ..tensor import Tensor, Writer
from .halves import Crossing, halves


def given_array(feed: Mapping[str, Any], name: str) -> Array:
    """The array of an input. InputError where the sample lacks it."""
    if name not in feed:
        raise InputError(f"a sample has no {name!r}, but {', '.join(feed) or 'nothing'}")
    return np.asarray(feed[name])


def results_of(session: Any, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
    """Run a session on a sample. InputError, in one line, where the run fails."""
    try:
        return list(session.run(list(names), dict(feed)))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"a sample does not run: {one_line(error)}") from error


def is_free(model: Model) -> bool:
    """Whether the first axis of all inputs and results is one symbolic size, the batch."""
    types = [value.type for value in (*model.graph.inputs, *model.graph.outputs)]
    firsts = {t.shape[0] if isinstance(t, TensorType) and t.shape else None for t in types}
    return len(firsts) == 1 and isinstance(next(iter(firsts)), str)


class Projector:
    """A session that returns ⟨∂⟨s, y⟩/∂v, w − v⟩, summed over the pairs (v, w) of each group, for signs s of results y.

    results: the names of y. inputs: of the model. free: whether the rows of a batch are projected separately.
    """

    def __init__(self, model: Model, groups: Sequence[Sequence[tuple[Value, Value]]]) -> None:
        self._model, self.free = model, is_free(model)
        self.inputs = [v.name for v in model.graph.inputs if v.default is None]
        self.results = [p.name for p, v in zip(model.graph.ports, model.graph.outputs) if is_float(v)]
        if not self.results:
            raise ModelError("the model has no float results, and sensitivities are those of results")
        self._names = [f"graphopt.change{k}" for k in range(len(groups))]
        self._ready = _with_projections(model, groups, self.results, self._names, self.free)
        self._types = [v.type for v in self._ready.graph.inputs if v.name.endswith(".cotangent")]

    @cached_property
    def _session(self) -> Any:
        return _open(self._ready)

    @cached_property
    def _halves(self) -> tuple[Any, Any, tuple[Crossing, ...]]:
        """Sessions of both halves, and the crossing values. Declined where the model cannot be split."""
        found = halves(self._ready, [f"{name}.cotangent" for name in self.results])
        return _open(found.first), _open(found.second), found.crossings

    @cached_property
    def plain(self) -> Any:
        """A session on the model itself."""
        return _open(self._model)

    def shapes(self, feed: Mapping[str, Array]) -> list[tuple[int, ...]]:
        """The shapes of the results: from types and the inputs' sizes if known, else from a run."""
        sizes: dict[Dim, int] = {}
        for value in self._model.graph.inputs:
            if value.name in feed and isinstance(value.type, TensorType):
                sizes.update(zip(value.type.shape or (), feed[value.name].shape))
        known = [_with_sizes(kind, sizes) for kind in self._types]
        if all(None not in shape for shape in known):
            return [tuple(size for size in shape if size is not None) for shape in known]
        return [y.shape for y in results_of(self.plain, self.results, dict(feed))]

    def squares(self, feed: Mapping[str, Array], signs: Sequence[Array]) -> Array:
        """The squared projections f64[groups], summed over the rows of the feed."""
        return self._squares(self._session, {**feed, **self._seeds(signs)})

    def squares_of_directions(self, feed: Mapping[str, Array], signs: Sequence[Array]) -> Array:
        """The squared projections of a one-row feed, summed over the rows of the signs. Declined for nested graphs."""
        first, second, crossings = self._halves
        names = [c.name for c in crossings]
        made = results_of(first, names, {i.name: feed[i.name] for i in first.get_inputs()})
        rows = len(signs[0])
        crossed = {c.name: c.for_rows(array, rows) for c, array in zip(crossings, made)}
        return self._squares(second, {**crossed, **self._seeds(signs)})

    def _seeds(self, signs: Sequence[Array]) -> dict[str, Array]:
        given = {}
        for name, sign, kind in zip(self.results, signs, self._types):
            given[f"{name}.cotangent"] = sign.astype(kind.dtype.numpy) if isinstance(kind, TensorType) else sign
        return given

    def _squares(self, session: Any, given: Mapping[str, Array]) -> Array:
        found = results_of(session, self._names, {i.name: given[i.name] for i in session.get_inputs()})
        return np.array([float(np.sum(np.square(f, dtype=np.float64))) for f in found])


def _with_sizes(kind: object, sizes: Mapping[Dim, int]) -> list[int | None]:
    """A shape with symbols replaced by sizes; None for an unknown size."""
    if not isinstance(kind, TensorType) or kind.shape is None:
        return [None]
    return [sizes.get(d) if isinstance(d, str) else d for d in kind.shape]


def _open(model: Model) -> Any:
    """A session that reads the model's weights where they lie; above `PACKED_BESIDE` bytes it packs none."""
    # otherwise onnxruntime quantizes float weights between codes, to codes other than the given ones
    entries = {"session.disable_quant_qdq": "1", **packing(unpacked_bytes(model) <= PACKED_BESIDE)}
    settings = session_options(folder=model.folder, entries=entries)
    if not any(node.op == "Conv" for node in model.graph):  # its blocked layout gains more than it costs
        settings.graph_optimization_level = type(settings.graph_optimization_level).ORT_ENABLE_BASIC
    return open_lent(model, settings)


def _with_projections(
    model: Model, groups: Sequence[Sequence[tuple[Value, Value]]], results: Sequence[str], names: Sequence[str],
    free: bool,
) -> Model:  # fmt: skip
    """A copy of a model that returns the projections of all groups, by name, and has inputs for signs."""
    copy = clone_model(model)
    copies = dict(zip(model.graph.inputs, copy.graph.inputs))
    for old, new in zip(model.graph.snapshot(), copy.graph.snapshot()):
        copies.update(zip(old.outputs, new.outputs))
    graph, tapped = copy.graph, Writer(copy.graph)
    taps = [tapped.node("Sub", copies[w], copies[v]).value for group in groups for v, w in group]
    marks = [f"graphopt.tap{k}" for k in range(len(taps))]
    more = [Port(name, value.type) for name, value in zip(marks, taps)]
    graph.set_outputs([*graph.outputs, *taps], [*graph.ports, *more])
    ready = prepare(copy, own=True)
    graph = ready.graph
    by_name = {port.name: value for port, value in zip(graph.ports, graph.outputs)}
    writer = Writer(graph)
    cotangents: dict[Value, Tensor] = {}
    for name in results:
        y = by_name[name]
        seed = Tensor(writer, graph.add_input(Value(y.type, f"{name}.cotangent")))
        cotangents[y] = cotangents[y] + seed if y in cotangents else seed
    made = [by_name[name] for name in marks]
    where = [v.producer.inputs[1] for v in made if v.producer is not None]
    slopes = gradients(writer, cotangents, [v for v in where if v is not None])
    first = _first_size(graph) if free else None
    parts = iter([_projection(writer, value, slope, first) for value, slope in zip(made, slopes)])
    sums = []
    for group, name in zip(groups, names):
        total = reduce(operator.add, [next(parts) for _ in group], writer.constant(0, DType.FLOAT))
        total.value.name = name
        sums.append(total.value)
    graph.set_outputs(sums, [Port(name, value.type) for name, value in zip(names, sums)])
    return ready


def _first_size(graph: Graph) -> Dim:
    kind = graph.inputs[0].type
    return kind.shape[0] if isinstance(kind, TensorType) and kind.shape else None


def _projection(writer: Writer, change: Value, slope: Tensor | None, rows: Dim) -> Tensor:
    """⟨slope, change⟩ f32: per row where the first axis is the batch, else over all elements."""
    if slope is None:
        return writer.constant(0, DType.FLOAT)
    product = slope * Tensor(writer, change)
    batched = rows is not None and product.rank > 1 and product.dims[0] == rows
    axes = writer.ints(range(1, product.rank)) if batched else None
    return writer.node("ReduceSum", product, axes, keepdims=0).cast(DType.FLOAT)
