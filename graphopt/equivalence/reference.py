"""Runs of the original in all its variants: results, noise, and the power of a comparison with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import ModelError
from ..ir import Array
from .equality import exceeds, leaves, noise_of
from .feeds import Feeds, one_ulp
from .onnx_graph import GraphIndex, walk_nodes
from .power import Perturbable, Power, make_perturbable, measure_power
from .runnable import RunnableModel
from .synthesis import Sample, find_samples, read_facts
from .synthesis.probe import Probe
from .tapped import TappedSession

# Budgets that keep a comparison at a small multiple of its necessary runs; `python -m tests.mutants` shows the wrong
# rewrites that are noticed within them, `graphopt verify` prints the power.
_TAPS = 160
_TAP_BYTES = 32 << 20
_TAPPED_SAMPLES = 2
_PERTURBATIONS = 24
_POWER_SECONDS = 2.0
_NOT_FLOAT = frozenset((
    "Shape", "Size", "ArgMax", "ArgMin", "NonZero", "Constant", "ConstantOfShape", "Range", "Equal", "Less", "Greater",
    "LessOrEqual", "GreaterOrEqual", "And", "Or", "Not", "QuantizeLinear", "DynamicQuantizeLinear", "NonMaxSuppression",
    "SequenceConstruct", "SplitToSequence", "Optional", "SequenceEmpty", "SequenceInsert", "StringConcat", "Tokenizer",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reference:
    """All results of the original with which the candidate is compared; lists run over the samples.

    `samples`: results with optimizations (without, for quantized arithmetic); `plain`: results without. `variants`: all
    of the original's results, whose spread is the noise. `inner` and `inner_noise`: the tapped values of the first
    samples. `scores`: the floats that decide integer outputs, unchanged and after a one-ulp change of the inputs.
    """

    samples: list[Sample]
    plain: list[dict[str, Any]]
    variants: list[list[dict[str, Any]]]
    taps: tuple[str, ...]
    inner: list[dict[str, Array]]
    inner_noise: list[dict[str, float]]
    scores: list[tuple[dict[str, Array], dict[str, Array]]]
    power: Power = field(default_factory=Power)


@dataclass(frozen=True, slots=True)
class ReferenceOptions:
    """Options of running the original.

    exact: without optimizations throughout. lock_step: the model has random operators with a seed, whose numbers agree
    only if every session runs equally often. power: also measure the power. taps, scores: inner values to read.
    """

    rtol: float
    seed: int
    exact: bool
    lock_step: bool
    power: bool
    threads: int | None
    taps: tuple[str, ...]
    scores: tuple[str, ...]


def agreed_taps(a: RunnableModel, b: RunnableModel) -> tuple[str, ...]:
    """Inner values that both models have: equal names whose readers have equal operators.

    A name alone proves nothing: a tool may give the name of a Conv to the Conv that absorbed its BatchNormalization.
    """
    ours, theirs = _consumers(a), _consumers(b)
    outputs = {p.name for p in a.outputs}
    inner = [o for n in a.proto.graph.node if n.op_type not in _NOT_FLOAT for o in n.output if o and o not in outputs]
    produced = {o for n in b.proto.graph.node for o in n.output}
    return tuple(n for n in inner if n in produced and ours.get(n, frozenset()) == theirs.get(n, frozenset()))


def _consumers(model: RunnableModel) -> dict[str, frozenset[str]]:
    ops: dict[str, set[str]] = {}
    for node in walk_nodes(model.proto):
        for name in node.input:
            ops.setdefault(name, set()).add(node.op_type)
    return {name: frozenset(op_types) for name, op_types in ops.items()}


def run_reference(
    a: RunnableModel, options: ReferenceOptions, feeds: list[Feeds] | None, count: int,
    fits: Callable[[Feeds], bool] | None, index: GraphIndex,
) -> Reference:  # fmt: skip
    """Run the original. Raises ModelError or InputError when it cannot be run at all."""
    samples = None
    if not options.exact:
        optimized = a.session(optimize=True, threads=options.threads, strict=True)
        samples = _samples(a, optimized, options, feeds, count, fits)
        del optimized  # before the next session takes its memory
    tapped = (*options.taps, *(s for s in options.scores if s not in options.taps))
    perturbable = make_perturbable(a, _PERTURBATIONS) if options.power else None
    session, perturbable = _plain_session(a, options, tapped, perturbable)
    floats = set(session.float_taps(tapped))
    scores = [s for s in options.scores if s in floats]
    if samples is None:
        samples = _samples(a, session, options, feeds, count, fits)
    taps, size = _affordable(a, session, samples[0], [t for t in options.taps if t in floats], options, index)
    if size > _TAP_BYTES:  # a run holds all results of a session until it ends, also those that nobody reads
        del session
        session, perturbable = _plain_session(a, options, (*taps, *scores), perturbable)
    keep = frozenset(n for n, f in read_facts(a, index).items() if f.roles & {"index", "size", "length", "mask"})
    rng = np.random.default_rng(options.seed)
    reference = Reference(samples, [], [], tuple(taps), [], [], [])
    for number, sample in enumerate(samples):
        fetch = [*(taps if number < _TAPPED_SAMPLES else ()), *scores]
        plain = session.run(sample.feeds, fetch) if fetch or not options.exact else sample.results
        moved = plain if options.lock_step else session.run(one_ulp(sample.feeds, rng, keep), fetch)
        own = [
            {name: run[name] for name in sample.results} for run in (plain, moved)
        ]  # inner values are not kept twice
        reference.plain.append(own[0])
        reference.variants.append([sample.results, *own])
        reference.scores.append(({s: plain[s] for s in scores}, {s: moved[s] for s in scores}))
        if number < _TAPPED_SAMPLES:
            reference.inner.append({t: plain[t] for t in taps})
            reference.inner_noise.append({t: noise_of(plain[t], [moved[t]]) for t in taps})
    if perturbable is None or options.lock_step:
        return reference
    return replace(reference, power=_power(a, session, perturbable, reference, options))


def _samples(
    a: RunnableModel, session: TappedSession, options: ReferenceOptions, feeds: list[Feeds] | None, count: int,
    fits: Callable[[Feeds], bool] | None,
) -> list[Sample]:  # fmt: skip
    if feeds is None:
        return find_samples(a, session, count, options.seed, fits)
    return [Sample(f, session.run(f)) for f in feeds]


def _plain_session(
    a: RunnableModel, options: ReferenceOptions, taps: Sequence[str], perturbable: Perturbable | None
) -> tuple[TappedSession, Perturbable | None]:
    """The session without optimizations; without overridable weights where an operator requires constants."""
    if perturbable is not None:
        try:
            edited, fed = perturbable.proto, perturbable.fed
            session = a.session(optimize=False, threads=options.threads, taps=taps, edited=edited, fed=fed)
            return session, perturbable
        except ModelError:
            pass  # power stays unmeasured, which the comparison shows; the model itself is tried next
    return a.session(optimize=False, threads=options.threads, taps=taps), None


def _affordable(
    a: RunnableModel, session: TappedSession, sample: Sample, taps: Sequence[str], options: ReferenceOptions,
    index: GraphIndex,
) -> tuple[list[str], int]:  # fmt: skip
    """Taps evenly spread over the model that fit the memory budget, by their shapes, or by a run if few are known; and
    the bytes that all of them would take."""
    every, taps = len(taps), _spread(taps, _TAPS)
    if not taps or options.lock_step:
        return list(taps), 0
    shapes = Probe(a.proto, index).shapes({n: np.shape(v) for n, v in sample.feeds.items()})
    known = [4 * math.prod(shapes[t]) for t in taps if t in shapes]
    if 2 * len(known) > len(taps):
        return _within_budget(taps, sum(known) / len(known), every)
    probe = _spread(taps, 5)  # input sizes predict nothing: attention squares them
    results = session.run(sample.feeds, probe)
    return _within_budget(taps, sum(results[p].nbytes for p in probe) / len(probe), every)


def _within_budget(taps: Sequence[str], mean: float, every: int) -> tuple[list[str], int]:
    """As many of the taps, of `mean` bytes each, as fit the budget, and the bytes of `every` one."""
    return _spread(taps, max(int(_TAP_BYTES / max(mean, 1.0)), 1)), int(mean * every)


def _spread(items: Sequence[str], count: int) -> list[str]:
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _power(
    a: RunnableModel, session: TappedSession, perturbable: Perturbable, reference: Reference, options: ReferenceOptions
) -> Power:
    """Perturb weights in the plain session as often as the time allows.

    A perturbation that the first sample does not show is tried on the others, as the comparison itself uses them all.
    """
    thresholds = [_thresholds(a, reference, number) for number in range(len(reference.samples))]

    def notices(weights: dict[str, Array], quick: bool) -> bool:
        return any(shows(number, weights) for number in range(1 if quick else len(reference.samples)))

    def shows(number: int, weights: dict[str, Array]) -> bool:
        taps = list(reference.taps) if number < len(reference.inner) else []
        base = reference.plain[number]
        try:
            results = session.run({**reference.samples[number].feeds, **weights}, taps)
        except ModelError:
            return True  # such as a Resize that rejects the scale: a candidate that fails to run is different
        if any(
            exceeds(reference.inner[number][t], results[t], reference.inner_noise[number][t], options.rtol) > 1
            for t in reversed(taps)
        ):
            return True
        for output in a.outputs:
            theirs = dict(leaves(output.name, results[output.name]))
            for name, array in leaves(output.name, base[output.name]):
                noise = thresholds[number].get(name, 0.0)
                if name not in theirs or _differs(array, theirs[name], noise, options.rtol):
                    return True
        return False

    return measure_power(perturbable, a, notices, _PERTURBATIONS, options.seed, _POWER_SECONDS)


def _thresholds(a: RunnableModel, reference: Reference, number: int) -> dict[str, float]:
    """The noise of every float output of a sample."""
    variants = [
        {leaf: array for output in a.outputs for leaf, array in leaves(output.name, v[output.name])}
        for v in reference.variants[number]
    ]
    return {
        leaf: noise_of(array, [v[leaf] for v in variants if leaf in v])
        for leaf, array in variants[1].items()
        if array.dtype.kind == "f"
    }


def _differs(a: Array, b: Array, noise: float, rtol: float) -> bool:
    if a.dtype.kind != "f":
        return a.shape != b.shape or not np.array_equal(a, b)
    return exceeds(a, b, noise, rtol) > 1
