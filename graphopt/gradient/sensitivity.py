"""Sensitivities of all weights from a few backward passes, instead of a run for each layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import check_arguments
from ..errors import Declined, InputError, ModelError, OptionError
from ..ir import Array, Constant, Graph, Model, Node, Value, clone_model
from ..machine.sessions import open_session, session_options
from ..onnx_io import load, to_proto
from .differentiate import gradient_model, is_float, look_up, named_values
from .project.projector import Projector, given_array, results_of
from .weights import initial, learnt_weights

if TYPE_CHECKING:
    from ..onnx_io.source import ModelSource

DRAWS = 2
"""Random directions of the results per sample: the trace of J Jᵀ from signs (Hutchinson 1989). Unbiased with one; the
spread over samples exceeds that over directions, so that few suffice."""


def fisher(
    model: ModelSource | Model, feeds: Iterable[Mapping[str, Any]], names: Sequence[str] | None = None, *,
    draws: int = DRAWS, seed: int = 0,
) -> dict[str, Array]:  # fmt: skip
    """F = E Σ_y (∂y/∂w)² of each weight w, f64 in its shape, by name: the diagonal of Fisher's matrix for results with
    Gaussian noise, of Gauss-Newton's for their squared error.

    Times w² it is the Fisher score of pruning. feeds: one sample each, without labels. names: initializers, by default
    all weights. draws: backward passes a sample.

    OptionError for unknown names, ModelError where a node has no gradient, InputError without samples.
    """
    check_arguments(fisher, locals())
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

    δ = −w models a removal, the rounding errors of w a lower precision. Feeds of one row run together where the batch
    may be of any size. draws: directions a sample; one more sample reduces the error more than one more direction. No
    gradient of a weight is computed, but the change of its layer's output by δ, and the gradient of the results there.
    Other arguments and errors as of `fisher`.
    """
    check_arguments(predicted_losses, locals())
    if not changes:
        return {}
    held = clone_model(model) if isinstance(model, Model) else load(model)
    named = named_values(held)
    groups = [_changed_results(held.graph, look_up(named, n, "initializer"), np.asarray(d)) for n, d in changes.items()]
    projector = Projector(held, groups)
    rng, total, count = np.random.default_rng(seed), np.zeros(len(groups)), 0
    for feed, rows in _batches(projector.inputs, projector.free, feeds):
        shapes = projector.shapes(feed)
        for _ in range(draws):
            total += projector.squares(feed, [rng.choice([-1.0, 1.0], shape) for shape in shapes])
        count += rows
    if not count:
        raise InputError("sensitivities need samples, and there are none")
    return dict(zip(changes, (total / (count * draws)).tolist()))


ROWS = 8
"""Samples run as one batch. Of 4 to 32 the fastest for `python -m tests.bench.gradient_sensitivity`: the activations of
more exceed the caches."""


def _batches(
    names: Sequence[str], free: bool, feeds: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[dict[str, Array], int]]:
    """Feeds with their number of samples; where rows are free, one-row feeds of equal sizes are joined to batches."""
    held = list[dict[str, Array]]()
    for feed in feeds:
        arrays = {name: given_array(feed, name) for name in names}
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
    """Pairs of a weight's readers' outputs, and of the same outputs under the change, by nodes appended to the graph;
    for readers of constants alone, the outputs of their readers instead."""
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
    check_arguments(slopes, locals())
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
        arrays = {name: given_array(feed, name) for name in given}
        made = results_of(plain, results, {i.name: given_array(feed, i.name) for i in plain.get_inputs()})
        energies = [float(np.sum(np.square(y, dtype=np.float64))) for y in made]
        for _ in range(draws):
            cotangents = {}
            for name, y, energy in zip(seeds, made, energies):
                s = y if of_energy else rng.choice([-1.0, 1.0], y.shape)
                cotangents[name] = (s / max(energy**0.5, 1e-30) if relative else s).astype(y.dtype)
            found = results_of(session, [f"{name}.gradient" for name in chosen], {**arrays, **cotangents})
            yield {name: np.asarray(g, np.float64) for name, g in zip(chosen, found)}, sum(energies)
    if empty:
        raise InputError("sensitivities need samples, and there are none")


EXACT = 16
"""The most elements of results whose sum over directions is exact: as many orthogonal directions, a power of two."""


def relative_changes(
    model: Model, changes: Sequence[tuple[Value, Value]], feeds: Iterable[Mapping[str, Any]], *, draws: int,
    seed: int = 0,
) -> Array:  # fmt: skip
    """f64[changes]: √(E Σ_y ⟨∂y/∂v, w − v⟩² / E ‖y‖²) for the pairs (v, w) of `changes`, values of the root graph: the
    relative error of the results, to first order, if w alone replaced v. Several results have equal weight.

    draws: backward passes a feed, along random signs s of all results (Hutchinson 1989), each of which gives
    ⟨∂⟨s, y⟩/∂v, w − v⟩ for every change at once; results of up to `EXACT` elements get signs with orthogonal rows
    (Hadamard's), which leave no sampling error. Where the batch may be of any size, each row of a feed counts
    separately, and the directions of a single row run as one batch.

    ModelError where a node between a change and the results has no gradient, InputError without samples.
    """
    projector = Projector(model, [[pair] for pair in changes])
    given = [{name: given_array(feed, name) for name in projector.inputs} for feed in feeds]
    if not given:
        raise InputError("sensitivities need samples, and there are none")
    made = [results_of(projector.plain, projector.results, feed) for feed in given]
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
    """±1 [draws, *shape] for each shape; more draws, orthogonal, where all shapes together are small."""
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


def _summed(projector: Projector, feed: dict[str, Array], seeds: list[Array]) -> Array:
    """Σ over directions of the squared projections, f64[changes]; as one batch where rows are free and that runs."""
    draws = len(seeds[0])
    single = all(a.ndim and a.shape[0] == 1 for a in feed.values()) and all(s.shape[1] == 1 for s in seeds)
    if projector.free and single:
        rows = [s.reshape(-1, *s.shape[2:]) for s in seeds]
        with suppress(InputError, Declined):  # the model fixes a size of one, or has nested graphs
            return projector.squares_of_directions(feed, rows)
        batch = {n: np.repeat(a, draws, 0) for n, a in feed.items()}
        with suppress(InputError):
            return projector.squares(batch, rows)
    return np.asarray(np.sum([projector.squares(feed, [s[k] for s in seeds]) for k in range(draws)], axis=0))
