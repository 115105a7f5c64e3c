"""Run the original in all its variants: what it answers, how much that wavers, and what would be noticed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ModelError
from ..ir import Array
from .equality import exceeds, leaves, noise_of
from .power import Perturbable, make_perturbable, measure_power
from .runnable import Session, Source, walk_nodes
from .semantics import Index, read_facts
from .synthesis import Feeds, Sample, find_samples, one_ulp

_TAPS = 160
_TAP_BYTES = 32 << 20
_TAPPED_SAMPLES = 2
_PERTURBATIONS = 24
_POWER_SECONDS = 2.0
_CAUTIOUS = 1 << 18

_NOT_FLOAT = frozenset((
    "Shape", "Size", "ArgMax", "ArgMin", "NonZero", "Constant", "ConstantOfShape", "Range", "Equal", "Less", "Greater",
    "LessOrEqual", "GreaterOrEqual", "And", "Or", "Not", "QuantizeLinear", "DynamicQuantizeLinear", "NonMaxSuppression",
    "SequenceConstruct", "SplitToSequence", "Optional", "SequenceEmpty", "SequenceInsert", "StringConcat", "Tokenizer",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reference:
    """Everything the candidate is judged by; lists run over the samples.

    `samples` hold the answers with optimizations (without, for quantized arithmetic), `plain` those without;
    `variants` are all the original's answers to be told from `base`; `inner` and `inner_noise` are the tapped values
    of the first samples; `scores` are what integer outputs are decided by, as they are and after a one-ulp change.
    """

    samples: list[Sample]
    plain: list[dict[str, Any]]
    variants: list[list[dict[str, Any]]]
    taps: tuple[str, ...]
    inner: list[dict[str, Array]]
    inner_noise: list[dict[str, float]]
    scores: list[tuple[dict[str, Array], dict[str, Array]]]
    power: float | None
    perturbations: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run: `exact` switches optimizations off throughout, `lock_step` keeps seeded random numbers in step."""

    rtol: float
    seed: int
    exact: bool
    lock_step: bool
    power: bool
    threads: int | None
    taps: tuple[str, ...]
    scores: tuple[str, ...]


def agreed_taps(a: Source, b: Source) -> tuple[str, ...]:
    """Inner values that both models have: equal names that feed equal operators.

    A name alone proves nothing: a tool may hand the name of a Conv to the Conv that absorbed its BatchNormalization.
    """
    ours, theirs = _consumers(a), _consumers(b)
    outputs = {p.name for p in a.outputs}
    made = [o for n in a.proto.graph.node if n.op_type not in _NOT_FLOAT for o in n.output if o and o not in outputs]
    produced = {o for n in b.proto.graph.node for o in n.output}
    return tuple(n for n in made if n in produced and ours.get(n, frozenset()) == theirs.get(n, frozenset()))


def _consumers(source: Source) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for node in walk_nodes(source.proto):
        for name in node.input:
            found.setdefault(name, set()).add(node.op_type)
    return {name: frozenset(ops) for name, ops in found.items()}


def run_reference(
    a: Source, plan: Plan, feeds: list[Feeds] | None, count: int, fits: Callable[[Feeds], bool] | None, index: Index
) -> Reference:
    """Run the original. Raises ModelError or InputError when it cannot be run at all."""
    samples = None
    if not plan.exact:
        fast = a.session(optimize=True, threads=plan.threads)
        samples = _samples(a, fast, plan, feeds, count, fits)
        del fast
    wanted = (*plan.taps, *(s for s in plan.scores if s not in plan.taps))
    perturbable = make_perturbable(a, _PERTURBATIONS) if plan.power else None
    session, perturbable = _plain_session(a, plan, wanted, perturbable)
    floats = set(session.float_taps(wanted))
    scores = [s for s in plan.scores if s in floats]
    if samples is None:
        samples = _samples(a, session, plan, feeds, count, fits)
    taps = _affordable(session, samples[0], [t for t in plan.taps if t in floats])
    keep = frozenset(n for n, f in read_facts(a, index).items() if f.roles & {"index", "size", "length", "mask"})
    rng = np.random.default_rng(plan.seed)
    plain: list[dict[str, Any]] = []
    variants: list[list[dict[str, Any]]] = []
    inner: list[dict[str, Array]] = []
    noise: list[dict[str, float]] = []
    both: list[tuple[dict[str, Array], dict[str, Array]]] = []
    for number, sample in enumerate(samples):
        fetch = [*(taps if number < _TAPPED_SAMPLES else ()), *scores]
        here = session.run(sample.feeds, fetch) if fetch or not plan.exact else sample.results
        moved = here if plan.lock_step else session.run(one_ulp(sample.feeds, rng, keep), fetch)
        plain.append(here)
        variants.append([sample.results, here, moved])
        both.append(({s: here[s] for s in scores}, {s: moved[s] for s in scores}))
        if number < _TAPPED_SAMPLES:
            inner.append({t: here[t] for t in taps})
            noise.append({t: noise_of(here[t], [moved[t]]) for t in taps})
    reference = Reference(samples, plain, variants, tuple(taps), inner, noise, both, None, 0)
    if perturbable is None or plan.lock_step:
        return reference
    power, made = _power(a, session, perturbable, reference, plan)
    return Reference(samples, plain, variants, tuple(taps), inner, noise, both, power, made)


def _samples(
    a: Source, session: Session, plan: Plan, feeds: list[Feeds] | None, count: int, fits: Callable[[Feeds], bool] | None
) -> list[Sample]:
    if feeds is None:
        return find_samples(a, session, count, plan.seed, fits)
    return [Sample(f, session.run(f)) for f in feeds]


def _plain_session(
    a: Source, plan: Plan, wanted: Sequence[str], perturbable: Perturbable | None
) -> tuple[Session, Perturbable | None]:
    """The session without optimizations; without overridable weights where an operator insists on constants."""
    if perturbable is not None:
        try:
            session = a.session(optimize=False, threads=plan.threads, taps=wanted, edited=perturbable.proto)
            return session, perturbable
        except ModelError:
            pass  # power stays unmeasured, which the comparison shows; the model itself is tried next
    return a.session(optimize=False, threads=plan.threads, taps=wanted), None


def _affordable(session: Session, sample: Sample, taps: Sequence[str]) -> list[str]:
    """Taps evenly spread over the model that fit the memory budget."""
    taps = _spread(taps, _TAPS)
    if sum(np.asarray(v).nbytes for v in sample.feeds.values() if isinstance(v, np.ndarray)) < _CAUTIOUS or not taps:
        return list(taps)
    probe = _spread(taps, 5)
    results = session.run(sample.feeds, probe)
    mean = max(sum(results[p].nbytes for p in probe) / len(probe), 1.0)
    return _spread(taps, max(int(_TAP_BYTES / mean), 1))


def _spread(items: Sequence[str], count: int) -> list[str]:
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _power(
    a: Source, session: Session, perturbable: Perturbable, reference: Reference, plan: Plan
) -> tuple[float | None, int]:
    """Perturb weights in the plain session as often as the time allows.

    What the first sample does not show is tried on the others, as the comparison itself uses them all.
    """
    thresholds = [_thresholds(a, reference, number) for number in range(len(reference.samples))]

    def notices(weights: dict[str, Array]) -> bool:
        return any(sees(number, weights) for number in range(len(reference.samples)))

    def sees(number: int, weights: dict[str, Array]) -> bool:
        taps = list(reference.taps) if number < len(reference.inner) else []
        base = reference.plain[number]
        try:
            got = session.run({**reference.samples[number].feeds, **weights}, taps)
        except ModelError:
            return True  # such as a Resize that refuses the scale: a candidate that does not run is different
        if any(exceeds(base[t], got[t], reference.inner_noise[number][t], plan.rtol) > 1 for t in reversed(taps)):
            return True
        for port in a.outputs:
            theirs = dict(leaves(port.name, got[port.name]))
            for name, array in leaves(port.name, base[port.name]):
                if name not in theirs or _differs(array, theirs[name], thresholds[number].get(name, 0.0), plan.rtol):
                    return True
        return False

    return measure_power(perturbable, a, notices, _PERTURBATIONS, plan.seed, _POWER_SECONDS)


def _thresholds(a: Source, reference: Reference, number: int) -> dict[str, float]:
    """The noise of every float output of a sample."""
    variants = [
        {leaf: array for port in a.outputs for leaf, array in leaves(port.name, v[port.name])}
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
