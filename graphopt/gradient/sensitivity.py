"""Sensitivities of all weights from a few backward passes, instead of a run for each layer."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, ModelError, OptionError, one_line
from ..ir import Array, Constant, Dim, DType, Graph, Model, Node, Port, TensorType, Value, clone_model
from ..machine.sessions import open_session, session_options
from ..onnx_io import load, to_proto
from .differentiate import gradient_model, is_float, look_up, named_values
from .prepare import prepare
from .reverse import gradients
from .tensor import Tensor, Writer
from .weights import initial, learnt_weights

if TYPE_CHECKING:
    from ..onnx_io.source import ModelSource

DRAWS = 2
"""Random directions of the results for each sample: the trace of J Jᵀ from signs (Hutchinson 1989). Unbiased with one;
the spread over samples is larger than that over directions, so that few are enough."""


def fisher(
    model: ModelSource | Model, feeds: Iterable[Mapping[str, Any]], names: Sequence[str] | None = None, *,
    draws: int = DRAWS, seed: int = 0,
) -> dict[str, Array]:  # fmt: skip
    """F = E Σ_y (∂y/∂w)² of each weight w, f64 in its shape, by name: the diagonal of Fisher's matrix for results with
    Gaussian noise, of Gauss-Newton's for their squared error.

    With w² it is the Fisher score of pruning. feeds: one sample each, without labels. names: initializers, by default
    all weights. draws: backward passes a sample.

    OptionError for unknown names, ModelError where a node has no gradient, InputError without samples.
    """
    held = clone_model(model) if isinstance(model, Model) else load(model)
    chosen = sorted(learnt_weights(held)) if names is None else names
    total: dict[str, Array] = {}
    count = 0
    for found, _ in slopes(held, feeds, chosen, draws=draws, seed=seed):
        for name, g in found.items():
            total[name] = total[name] + np.square(g) if name in total else np.square(g)
        count += 1
    return {name: t / count for name, t in total.items()}


def predicted_losses(
    model: ModelSource | Model, feeds: Iterable[Mapping[str, Any]], changes: Mapping[str, Array], *,
    draws: int = 1, seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """E Σ_y ⟨∂y/∂w, δ⟩² for the change δ of each weight, by name: the squared error of the results, summed over their
    elements, if only this weight changed, to first order.

    δ = −w is a removal, the rounding errors of w a precision. Feeds of one row are run together where the batch may be
    of any size. draws: directions a sample; one more sample tells more than one more direction. No gradient of a weight
    is computed, but the change that δ makes of what its layer returns, and the slope of the results there. Other
    arguments and errors as of `fisher`.
    """
    if not changes:
        return {}
    held = clone_model(model) if isinstance(model, Model) else load(model)
    named = named_values(held)
    groups = [_changed_results(held.graph, look_up(named, n, "initializer"), np.asarray(d)) for n, d in changes.items()]
    projector = _Projector(held, groups)
    rng, total, count = np.random.default_rng(seed), np.zeros(len(groups)), 0
    for feed, rows in _batches(projector.inputs, projector.free, feeds):
        for _ in range(draws):
            total += projector.drawn(feed, rng)
        count += rows
    if not count:
        raise InputError("sensitivities need samples, and there are none")
    return dict(zip(changes, (total / (count * draws)).tolist()))


ROWS = 8
"""Samples that are run as one batch. Of 4 to 32 the fastest for `python -m tests.bench.gradient_sensitivity`: the
activations of more leave the caches."""


def _batches(
    names: Sequence[str], free: bool, feeds: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[dict[str, Array], int]]:
    """Feeds with their number of samples, where rows are free joined to batches of single rows in the same sizes."""
    held = list[dict[str, Array]]()
    for feed in feeds:
        arrays = {name: _given(feed, name) for name in names}
        if not free or any(a.ndim == 0 or a.shape[0] != 1 for a in arrays.values()):
            yield arrays, 1
            continue
        if held and (len(held) == ROWS or any(a.shape != held[0][n].shape for n, a in arrays.items())):
            yield _joined(held), len(held)
            held = []
        held.append(arrays)
    if held:
        yield _joined(held), len(held)


def _joined(feeds: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _changed_results(graph: Graph, weight: Value, change: Array) -> list[tuple[Value, Value]]:
    """Pairs of what a weight's readers return and of what they would with the change, appended to the graph; a reader
    of constants alone is passed through."""
    tensor = initial(weight)
    if tensor is None:
        raise OptionError(f"{weight.name!r} is an input and has no value that could change")
    found: list[tuple[Value, Value]] = []
    waiting = [(weight, Value(constant=Constant.of((tensor.array() + change).astype(tensor.type.dtype.numpy))))]
    while waiting:
        old, new = waiting.pop()
        for node in dict.fromkeys(use.node for use in old.uses):
            if node.graph is not graph or node is graph.return_node or node.subgraphs:
                raise ModelError(f"weight {weight.name!r} is read by a nested graph or is a result itself")
            inputs = [new if v is old else v for v in node.inputs]
            again = graph.append(Node(node.op, inputs, dict(node.attrs), [v.type for v in node.outputs]))
            pairs = [(v, w) for v, w in zip(node.outputs, again.outputs) if is_float(v) and not v.is_unused]
            settled = all(v is None or v is old or v.constant is not None for v in node.inputs)
            (waiting if settled else found).extend(pairs)
    return found


def slopes(
    model: ModelSource | Model, feeds: Iterable[Mapping[str, Any]], names: Sequence[str], *, draws: int = DRAWS,
    seed: int = 0, of_energy: bool = False, relative: bool = False,
) -> Iterator[tuple[dict[str, Array], float]]:  # fmt: skip
    """∂⟨s, y⟩/∂v in f64 by the name of v, and ‖y‖² over all float results y, of one sample and draw after another.

    s is ±1 at random in each element; with `of_energy` it is y, so that the slopes are those of ½‖y‖². relative: each
    result of a sample counts as a share of its own norm. names: as `wrt` of `gradient_model`. Errors as of `fisher`.
    """
    held = clone_model(model) if isinstance(model, Model) else load(model)
    chosen = list(names)
    settings = session_options(folder=held.folder)
    session = open_session(gradient_model(held, chosen).SerializeToString(), settings)
    seeds = [i.name for i in session.get_inputs() if i.name.endswith(".cotangent")]
    if not seeds:
        raise ModelError("the model has no float results, and sensitivities are those of results")
    given = [i.name for i in session.get_inputs() if i.name not in seeds]
    results = [name.removesuffix(".cotangent") for name in seeds]
    plain = open_session(to_proto(held).SerializeToString(), settings)
    rng, empty = np.random.default_rng(seed), True
    for feed in feeds:
        empty = False
        arrays = {name: _given(feed, name) for name in given}
        made = _results(plain, results, {i.name: _given(feed, i.name) for i in plain.get_inputs()})
        energies = [float(np.sum(np.square(y, dtype=np.float64))) for y in made]
        for _ in range(draws):
            cotangents = {}
            for name, y, energy in zip(seeds, made, energies):
                s = y if of_energy else rng.choice([-1.0, 1.0], y.shape)
                cotangents[name] = (s / max(energy**0.5, 1e-30) if relative else s).astype(y.dtype)
            found = _results(session, [f"{name}.gradient" for name in chosen], {**arrays, **cotangents})
            yield {name: np.asarray(g, np.float64) for name, g in zip(chosen, found)}, sum(energies)
    if empty:
        raise InputError("sensitivities need samples, and there are none")


def _given(feed: Mapping[str, Any], name: str) -> Array:
    """The array of an input. InputError where the sample lacks it."""
    if name not in feed:
        raise InputError(f"a sample has no {name!r}, but {', '.join(feed) or 'nothing'}")
    return np.asarray(feed[name])


def _results(session: Any, names: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
    """A run on a sample. InputError, in one line, where it fails."""
    try:
        return list(session.run(list(names), dict(feed)))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"a sample does not run: {one_line(error)}") from error


EXACT = 16
"""Results of at most so many elements get as many directions as make the sum over them exact, a power of two."""


def relative_changes(
    model: Model, changes: Sequence[tuple[Value, Value]], feeds: Iterable[Mapping[str, Any]], *, draws: int,
    seed: int = 0,
) -> Array:  # fmt: skip
    """f64[changes]: √(E Σ_y ⟨∂y/∂v, w − v⟩² / E ‖y‖²) for the pairs (v, w) of `changes`, values of the root graph: the
    relative error of the results, to first order, if w alone took the place of v. Several results count alike.

    draws: backward passes a feed, along random signs s of all results (Hutchinson 1989), each of which gives
    ⟨∂⟨s, y⟩/∂v, w − v⟩ for every change at once; results of up to `EXACT` elements get signs whose rows are orthogonal
    (Hadamard's), which leaves no spread. Where the batch may be of any size, the rows of a feed count each by itself,
    and the directions of a single row are one batch.

    ModelError where a node between a change and the results has no gradient, InputError without samples.
    """
    projector = _Projector(model, [[pair] for pair in changes])
    given = [{name: _given(feed, name) for name in projector.inputs} for feed in feeds]
    if not given:
        raise InputError("sensitivities need samples, and there are none")
    made = [projector.run(feed) for feed in given]
    norms = [np.sqrt(np.mean([np.sum(np.square(y, dtype=np.float64)) for y in ys])) for ys in zip(*made)]
    rng, total, count = np.random.default_rng(seed), np.zeros(len(changes)), 0
    free = projector.free
    for feed, ys in zip(given, made):
        signs = _signs([y.shape[1:] if free else y.shape for y in ys], draws, rng)
        if free:
            signs = [np.repeat(s[:, None], len(y), 1) for s, y in zip(signs, ys)]
        seeds = [s / max(n, 1e-30) for s, n in zip(signs, norms)]
        total += _summed(projector, feed, seeds)
        count += len(signs[0])
    return np.asarray(np.sqrt(total / count))


def _signs(shapes: Sequence[tuple[int, ...]], draws: int, rng: np.random.Generator) -> list[Array]:
    """±1 [draws, *shape] for each shape; more draws, orthogonal, where all are small."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    width = sum(sizes)
    if width > EXACT:
        return [rng.choice([-1.0, 1.0], (draws, *shape)) for shape in shapes]
    rows = np.ones((1, 1))
    while len(rows) < width:
        rows = np.block([[rows, rows], [rows, -rows]])
    rows = rows * rng.choice([-1.0, 1.0], (len(rows), 1))
    parts = np.split(rows[:, :width], np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(len(rows), *shape) for part, shape in zip(parts, shapes)]


def _summed(projector: _Projector, feed: dict[str, Array], seeds: list[Array]) -> Array:
    """Σ over directions of the squared projections, f64[changes]; tries them as one batch where rows are free."""
    draws = len(seeds[0])
    single = all(a.ndim and a.shape[0] == 1 for a in feed.values()) and all(s.shape[1] == 1 for s in seeds)
    if projector.free and single:
        batch = {n: np.repeat(a, draws, 0) for n, a in feed.items()}
        with suppress(InputError):  # a size of one that is written into the model
            return projector.squares(batch, [s.reshape(-1, *s.shape[2:]) for s in seeds])
    return np.asarray(np.sum([projector.squares(feed, [s[k] for s in seeds]) for k in range(draws)], axis=0))


def _is_free(model: Model) -> bool:
    """Whether the first axis of all inputs and results is one size by name: the batch's."""
    types = [value.type for value in (*model.graph.inputs, *model.graph.outputs)]
    firsts = {t.shape[0] if isinstance(t, TensorType) and t.shape else None for t in types}
    return len(firsts) == 1 and isinstance(next(iter(firsts)), str)


class _Projector:
    """A session that returns ⟨∂⟨s, y⟩/∂v, w − v⟩, summed over the pairs (v, w) of each group, for signs s of results y.

    results: the names of y. inputs: those of the model. free: whether rows of a batch are projected each by itself.
    """

    def __init__(self, model: Model, groups: Sequence[Sequence[tuple[Value, Value]]]) -> None:
        self.free = _is_free(model)
        self.inputs = [v.name for v in model.graph.inputs if v.default is None]
        self.results = [p.name for p, v in zip(model.graph.ports, model.graph.outputs) if is_float(v)]
        if not self.results:
            raise ModelError("the model has no float results, and sensitivities are those of results")
        self._names = [f"graphopt.change{k}" for k in range(len(groups))]
        ready = _with_projections(model, groups, self.results, self._names, self.free)
        self._types = [v.type for v in ready.graph.inputs if v.name.endswith(".cotangent")]
        # onnxruntime quantizes float weights that stand between codes, to other codes than those that are asked about
        settings = session_options(folder=ready.folder, entries={"session.disable_quant_qdq": "1"})
        if not any(node.op == "Conv" for node in ready.graph):  # whose blocks of channels gain more than they cost
            settings.graph_optimization_level = type(settings.graph_optimization_level).ORT_ENABLE_BASIC
        self._session = open_session(to_proto(ready).SerializeToString(), settings)
        self._read = {i.name for i in self._session.get_inputs()}
        self._shapes: dict[tuple[tuple[int, ...], ...], list[tuple[int, ...]]] = {}

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """The results."""
        return _results(self._session, self.results, self._given(feed, [np.ones(())] * len(self.results)))

    def drawn(self, feed: Mapping[str, Array], rng: np.random.Generator) -> Array:
        """The squared projections f64[groups] for signs at random, summed over the rows of the feed.

        Results are taken to be as large as those of an earlier feed of the same sizes, until they are seen not to be.
        """
        key = tuple(array.shape for array in feed.values())
        if key in self._shapes:
            with suppress(InputError):
                return self.squares(feed, [rng.choice([-1.0, 1.0], shape) for shape in self._shapes[key]])
        self._shapes[key] = [y.shape for y in self.run(feed)]
        return self.squares(feed, [rng.choice([-1.0, 1.0], shape) for shape in self._shapes[key]])

    def _given(self, feed: Mapping[str, Array], cotangents: Sequence[Array]) -> dict[str, Array]:
        """What the session reads of a sample and of cotangents, these in the types of the results."""
        given = dict(feed)
        for name, array, kind in zip(self.results, cotangents, self._types):
            given[f"{name}.cotangent"] = array.astype(kind.dtype.numpy) if isinstance(kind, TensorType) else array
        return {name: array for name, array in given.items() if name in self._read}

    def squares(self, feed: Mapping[str, Array], signs: Sequence[Array]) -> Array:
        """The squared projections f64[groups], summed over the rows of the feed. InputError where results have other
        sizes than the signs."""
        found = _results(self._session, [*self._names, *self.results], self._given(feed, signs))
        if any(y.shape != s.shape for y, s in zip(found[len(self._names) :], signs)):
            raise InputError("a sample has results of other sizes than were expected")
        return np.array([float(np.sum(np.square(f, dtype=np.float64))) for f in found[: len(self._names)]])


def _with_projections(
    model: Model, groups: Sequence[Sequence[tuple[Value, Value]]], results: Sequence[str], names: Sequence[str],
    free: bool,
) -> Model:  # fmt: skip
    """A model, made of the given one, that returns the projections of all groups, by name, and has inputs for signs."""
    graph, tapped = model.graph, Writer(model.graph)
    taps = [tapped.node("Sub", w, v).value for group in groups for v, w in group]
    marks = [f"graphopt.tap{k}" for k in range(len(taps))]
    more = [Port(name, value.type) for name, value in zip(marks, taps)]
    graph.set_outputs([*graph.outputs, *taps], [*graph.ports, *more])
    ready = prepare(model, own=True)
    graph = ready.graph
    by_name = {port.name: value for port, value in zip(graph.ports, graph.outputs)}
    writer = Writer(graph)
    cotangents: dict[Value, Tensor] = {}
    for name in results:
        y = by_name[name]
        kind = TensorType(Tensor(writer, y).dtype)  # of any shape that broadcasts, so that results can be had alone
        given = Tensor(writer, graph.add_input(Value(kind, f"{name}.cotangent")))
        seed = writer.node("Expand", given, writer.node("Shape", y))
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
    kept = [*(by_name[name] for name in results), *sums]
    graph.set_outputs(kept, [Port(name, value.type) for name, value in zip((*results, *names), kept)])
    return ready


def _first_size(graph: Graph) -> Dim:
    kind = graph.inputs[0].type
    return kind.shape[0] if isinstance(kind, TensorType) and kind.shape else None


def _projection(writer: Writer, change: Value, slope: Tensor | None, rows: Dim) -> Tensor:
    """⟨slope, change⟩ f32: of each row where the first axis is that of the batch, else of the whole."""
    if slope is None:
        return writer.constant(0, DType.FLOAT)
    product = slope * Tensor(writer, change)
    batched = rows is not None and product.rank > 1 and product.dims[0] == rows
    axes = writer.ints(range(1, product.rank)) if batched else None
    return writer.node("ReduceSum", product, axes, keepdims=0).cast(DType.FLOAT)
