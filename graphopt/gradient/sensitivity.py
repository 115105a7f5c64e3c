"""Sensitivities of all weights from a few backward passes, instead of a run for each layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, ModelError
from ..ir import Array, Model, Port, TensorType, Value, clone_model
from ..machine.sessions import open_session, session_options
from ..onnx_io import load, to_proto
from .differentiate import gradient_model, is_float
from .prepare import prepare
from .reverse import gradients
from .tensor import Tensor, Writer
from .weights import learnt_weights

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
    draws: int = DRAWS, seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """E Σ_y ⟨∂y/∂w, δ⟩² for the change δ of each weight, by name: the squared error of the results, summed over their
    elements, if only this weight changed, to first order.

    δ = −w is a removal, the rounding errors of w a precision. Arguments and errors as of `fisher`.
    """
    total, count = dict.fromkeys(changes, 0.0), 0
    for found, _ in slopes(model, feeds, list(changes), draws=draws, seed=seed):
        for name, g in found.items():
            total[name] += float(np.sum(g * changes[name])) ** 2
        count += 1
    return {name: t / count for name, t in total.items()}


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
        arrays = {name: np.asarray(feed[name]) for name in given}
        made = plain.run(results, {i.name: np.asarray(feed[i.name]) for i in plain.get_inputs()})
        energies = [float(np.sum(np.square(y, dtype=np.float64))) for y in made]
        for _ in range(draws):
            cotangents = {}
            for name, y, energy in zip(seeds, made, energies):
                s = y if of_energy else rng.choice([-1.0, 1.0], y.shape)
                cotangents[name] = (s / max(energy**0.5, 1e-30) if relative else s).astype(y.dtype)
            found = session.run([f"{name}.gradient" for name in chosen], {**arrays, **cotangents})
            yield {name: np.asarray(g, np.float64) for name, g in zip(chosen, found)}, sum(energies)
    if empty:
        raise InputError("sensitivities need samples, and there are none")


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
    plain = open_session(to_proto(model).SerializeToString(), session_options(folder=model.folder))
    session, results, names = _projections(model, changes)
    given = [{i.name: np.asarray(feed[i.name]) for i in plain.get_inputs()} for feed in feeds]
    if not given:
        raise InputError("sensitivities need samples, and there are none")
    made = [plain.run(results, feed) for feed in given]
    norms = [np.sqrt(np.mean([np.sum(np.square(y, dtype=np.float64)) for y in ys])) for ys in zip(*made)]
    rng, total, count = np.random.default_rng(seed), np.zeros(len(changes)), 0
    free = _is_free(model)
    for feed, ys in zip(given, made):
        signs = _signs([y.shape[1:] if free else y.shape for y in ys], draws, rng)
        if free:
            signs = [np.repeat(s[:, None], len(y), 1) for s, y in zip(signs, ys)]
        seeds = [(s / max(n, 1e-30)).astype(y.dtype) for s, n, y in zip(signs, norms, ys)]
        total += _summed(session, names, results, feed, seeds, free)
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


def _summed(
    session: Any, names: list[str], results: list[str], feed: dict[str, Array], seeds: list[Array], free: bool
) -> Array:
    """Σ over directions of the squared projections, f64[changes]; `free`: try them as one batch."""
    read = {i.name for i in session.get_inputs()}
    draws = len(seeds[0])
    if free and all(a.ndim and a.shape[0] == 1 for a in feed.values()) and all(s.shape[1] == 1 for s in seeds):
        batch = {n: np.repeat(a, draws, 0) for n, a in feed.items()}
        batch.update({f"{n}.cotangent": s.reshape(-1, *s.shape[2:]) for n, s in zip(results, seeds)})
        with suppress(Exception):  # a size of one that is written into the model; onnxruntime's have no base class
            found = session.run(names, {n: a for n, a in batch.items() if n in read})
            return np.array([float(np.sum(np.square(f, dtype=np.float64))) for f in found])
    total = np.zeros(len(names))
    for k in range(draws):
        one = {**feed, **{f"{n}.cotangent": s[k] for n, s in zip(results, seeds)}}
        found = session.run(names, {n: a for n, a in one.items() if n in read})
        total += [float(np.sum(np.square(f, dtype=np.float64))) for f in found]
    return total


def _is_free(model: Model) -> bool:
    """Whether the first axis of all inputs and results is one size by name: the batch's."""
    types = [value.type for value in (*model.graph.inputs, *model.graph.outputs)]
    firsts = {t.shape[0] if isinstance(t, TensorType) and t.shape else None for t in types}
    return len(firsts) == 1 and isinstance(next(iter(firsts)), str)


def _projections(model: Model, changes: Sequence[tuple[Value, Value]]) -> tuple[Any, list[str], list[str]]:
    """A session that returns ⟨∂⟨s, y⟩/∂v, δ⟩ of each change for s, fed as cotangents; the names of y, and of these."""
    copy = clone_model(model)
    copies = dict(zip(model.graph.inputs, copy.graph.inputs))
    for old, new in zip(model.graph.snapshot(), copy.graph.snapshot()):
        copies.update(zip(old.outputs, new.outputs))
    graph, ports = copy.graph, list(copy.graph.ports)
    results = [p.name for p, v in zip(ports, graph.outputs) if is_float(v)]
    if not results:
        raise ModelError("the model has no float results, and sensitivities are those of results")
    tapped = Writer(graph)
    pairs = [tapped.node("Sub", copies[change], copies[v]).value for v, change in changes]
    names = [f"graphopt.change{k}" for k in range(len(pairs))]
    more = [Port(name, value.type) for name, value in zip(names, pairs)]
    graph.set_outputs([*graph.outputs, *pairs], [*ports, *more])
    ready = prepare(copy)
    graph = ready.graph
    by_name = {port.name: value for port, value in zip(graph.ports, graph.outputs)}
    writer = Writer(graph)
    cotangents: dict[Value, Tensor] = {}
    for name in results:
        y = by_name[name]
        seed = Tensor(writer, graph.add_input(Value(y.type, f"{name}.cotangent")))
        cotangents[y] = cotangents[y] + seed if y in cotangents else seed
    made = [by_name[name] for name in names]
    where = [v.producer.inputs[1] for v in made if v.producer is not None]
    slopes = gradients(writer, cotangents, [v for v in where if v is not None])
    sums, free = [], _is_free(model)
    types = [v.type for v in graph.inputs[:1]]
    first = types[0].shape[0] if types and isinstance(types[0], TensorType) and types[0].shape else None
    for value, slope, name in zip(made, slopes, names):
        zero = Tensor(writer, value).zeros() if slope is None else slope
        product = zero * Tensor(writer, value)
        batched = free and product.rank > 1 and product.dims[0] == first
        axes = writer.ints(range(1, product.rank)) if batched else None
        one = writer.node("ReduceSum", product, axes, keepdims=0).value
        one.name = name
        sums.append(one)
    graph.set_outputs(sums, [Port(name, value.type) for name, value in zip(names, sums)])
    # onnxruntime quantizes float weights that stand between codes, to other codes than those that are asked about
    settings = session_options(folder=ready.folder, entries={"session.disable_quant_qdq": "1"})
    return open_session(to_proto(ready).SerializeToString(), settings), results, names
