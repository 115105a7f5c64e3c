"""Sensitivities of all weights from a few backward passes, instead of a run for each layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, ModelError
from ..ir import Array, Model, clone_model
from ..machine.sessions import open_session, session_options
from ..onnx_io import load, to_proto
from .differentiate import gradient_model
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
