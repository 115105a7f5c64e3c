"""Comparison of two models on samples: validates that a rewrite changed no result.

Per output and sample, max|a − b| ≤ max(rtol · max|b|, 3 · noise), where noise is the spread of the original a between
onnxruntime with all optimizations and with none, and under a one-ulp change of its float inputs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import check_arguments
from ..errors import InputError, ModelError, Unsupported
from ..ir import Array, Model
from ..onnx_io.lend import WeightPool
from .drawn import draw_alike
from .equality import SampleComparison, compare_exact, compare_floats, exceeds, leaves, noise_of
from .feeds import FeedData, Feeds, checked_feeds
from .metrics import magnitude
from .onnx_graph import GraphIndex
from .reference import Reference, ReferenceOptions, agreed_taps, run_reference
from .result import Comparison, OutputComparison
from .runnable import RunnableModel, open_runnable
from .structure import same_structure
from .synthesis.search import Sample, find_samples
from .tapped import TappedSession
from .ties import DecidingOperator, find_decider, random_outputs, replay_selections, same_rows, tied

if TYPE_CHECKING:
    from ..onnx_io.source import ModelSource

Suspects = dict[str, tuple[int, Array, str]]
"""Inner values that seem to differ: the number of the sample, the candidate's array, and the difference as text."""

_UNIT_RANGE = ("Sigmoid", "HardSigmoid", "Softmax", "Tanh", "Erf", "Softsign", "Sin", "Cos")


def compare(
    a: ModelSource | Model | RunnableModel,
    b: ModelSource | Model | RunnableModel,
    inputs: FeedData | None = None,
    samples: int = 4,
    rtol: float = 1e-4,
    *,
    seed: int = 0,
    min_sqnr: float | None = None,
    power: bool = True,
    intermediates: bool = True,
    threads: int | None = None,
    runtime: str = "onnxruntime",
) -> Comparison:
    """Whether the candidate `b` computes the results of the original `a`, within a tolerance, on samples.

    a, b: path, bytes, onnx.ModelProto, onnx_ir.Model, graphopt.ir.Model, or an open RunnableModel.
    inputs: None (synthetic feeds on which `a` runs), a dict of arrays, an iterable of dicts, a dict of stacked arrays,
    an object with `get_next()`, or the path of an .npz or .npy file.
    samples: the number of synthetic feeds. rtol: tolerance relative to max|b|, raised to four epsilons of the output's
    dtype for float16 and bfloat16. min_sqnr: for lossy candidates, requires this SQNR in dB instead of rtol.
    power: also measure the share of 1 % perturbations of single weights that would be noticed.
    intermediates: also compare inner values that both models have. threads: of onnxruntime; None for its default.
    runtime: runs both models, "onnxruntime" or "torch" (the extra `train`), which shares no code with onnxruntime;
    feeds are synthesized with onnxruntime if it runs the original. A model with an operator that torch lacks is
    unverified.

    Unless `min_sqnr` is given, for a lossy candidate, products with stored weights (MatMulNBits) do not round their
    other operand to 8 bits, in either model.

    A candidate that fails where the original runs is different; an original that does not run is unverified. Raises
    ModelError for anything but a model, InputError when the given inputs do not fit the original, OptionError for an
    unknown runtime or without torch, or numbers that make no sense.
    """
    check_arguments(compare, locals())
    start = time.perf_counter()
    pool = WeightPool()
    original = open_runnable(a, "original").in_runtime(runtime).with_weights_lent(pool)
    candidate = open_runnable(b, "candidate", original.folder).in_runtime(runtime).with_weights_lent(pool)
    difference = interface_difference(original, candidate)
    if difference:
        return Comparison("different", difference)
    if min_sqnr is None:
        original, candidate = (model.with_unrounded_products() for model in (original, candidate))
    inner = intermediates and min_sqnr is None
    job = _ComparisonRun(*draw_alike(original, candidate), rtol, seed, min_sqnr, power, inner, threads)
    given = job.feeds_elsewhere(samples) if inputs is None else checked_feeds(inputs, original)
    found = job.run(given, samples, start)
    again = None if found.is_equal else job.replayed(start)
    found = again if again is not None and (again.is_equal or found.status == "unverified") else found
    is_lossy = candidate.is_dequantized and not original.is_dequantized
    hint = _hint(inputs is None, min_sqnr is None) if is_lossy else ""
    return replace(found, made_up=inputs is None, hint=hint)


def _hint(made_up: bool, exact: bool) -> str:
    """A hint for a comparison of a quantized model with its original that lacks an option, else ""."""
    lacks = ["its accuracy shows on real inputs (--inputs samples.npz, inputs=)"] if made_up else []
    lacks += ["its noise is accepted by a limit in dB (--min-sqnr 20, min_sqnr=)"] if exact else []
    return f"the candidate is quantized: {' and '.join(lacks)}" if lacks else ""


def interface_difference(a: RunnableModel, b: RunnableModel) -> str:
    """The first difference of two interfaces in names, element types, ranks or fixed sizes; "" if there is none."""
    for kind, ours, theirs in (("inputs", a.inputs, b.inputs), ("outputs", a.outputs, b.outputs)):
        names, others = [p.name for p in ours], [p.name for p in theirs]
        if (names != others) if kind == "outputs" else (sorted(names) != sorted(others)):
            return f"the {kind} {names} became {others}"
        by_name = {p.name: p for p in theirs}
        for p in ours:
            q = by_name[p.name]
            if p.type.WhichOneof("value") != q.type.WhichOneof("value") or p.elem != q.elem:
                return f"the type of {kind[:-1]} {p} became {q}"
            if p.dims is None or q.dims is None:
                continue
            if len(p.dims) != len(q.dims) or any(_conflict(m, n) for m, n in zip(p.dims, q.dims)):
                return f"the shape of {kind[:-1]} {p} became {q}"
    return ""


def _conflict(m: int | str | None, n: int | str | None) -> bool:
    return isinstance(m, int) and isinstance(n, int) and m > 0 and n > 0 and m != n


def _is_grouped(model: RunnableModel) -> bool:
    """The model holds GroupQueryAttention, whose keys are counted by lengths and precede their queries."""
    return any(node.op_type == "GroupQueryAttention" for node in model.proto.graph.node)


class _ComparisonRun:
    """One running comparison: the two models, the options, and facts read once."""

    def __init__(
        self, a: RunnableModel, b: RunnableModel, rtol: float, seed: int, min_sqnr: float | None, power: bool,
        inner: bool, threads: int | None,
    ) -> None:  # fmt: skip
        self.a, self.b, self.rtol, self.seed, self.min_sqnr = a, b, rtol, seed, min_sqnr
        self.power, self.inner, self.threads = power, inner, threads
        self.exact = a.is_quantized or b.is_quantized or a.runtime != "onnxruntime"
        self.index = GraphIndex(a.proto)
        self.is_grouped = _is_grouped(b) and not _is_grouped(a)
        self.random, self.has_random = random_outputs(self.index, [p.name for p in a.outputs])
        self.feeds: list[Feeds] = []
        self.scales: dict[str, float] = {}
        self.deciders: dict[str, DecidingOperator] = {}
        for output in a.outputs:
            decider = find_decider(output.name, self.index) if output.elem not in (1, 10, 11, 16) else None
            if decider is not None:
                self.deciders[output.name] = decider

    def run(self, feeds: list[Feeds] | None, count: int, start: float) -> Comparison:
        try:
            reference = self._reference(feeds, count)
        except (ModelError, InputError) as error:
            if self.exact:
                return Comparison("unverified", str(error))
            self.exact = True  # a model that runs only without optimizations is compared without
            return self.run(feeds, count, start)
        self.feeds = [sample.feeds for sample in reference.samples]
        by_output: dict[str, list[SampleComparison]] = {}
        suspects: Suspects = {}
        try:
            for optimize in (False,) if self.exact else (False, True):
                self._run_candidate(reference, optimize, by_output, suspects)
        except Unsupported as error:
            return Comparison("unverified", f"the candidate: {error}")
        except ModelError as error:
            return Comparison("different", f"the candidate does not run where the original does: {error}")
        outputs = tuple(_over_samples(name, parts) for name, parts in by_output.items())
        inner_different = self._confirmed(reference, suspects)
        status, reason = _conclude(outputs, inner_different)
        return Comparison(
            status, reason, outputs, len(reference.samples),
            tuple({n: np.shape(v) for n, v in s.feeds.items()} for s in reference.samples), len(reference.taps),
            tuple(inner_different), reference.power.share, reference.power.perturbations, time.perf_counter() - start,
            is_power_least=reference.power.is_least,
        )  # fmt: skip

    def replayed(self, start: float) -> Comparison | None:
        """The comparison on the same samples with the original's selections (TopK and the like) fed to both models.

        None where the replay is impossible or unverified. A near tie decided differently changes all values computed
        from the selection, in either model.
        """
        replay = replay_selections(self.a.proto, self.b.proto)
        if replay is None or not self.feeds:
            return None
        try:
            session = self.a.session(optimize=False, threads=self.threads, taps=replay.selected.values())
            feeds = []
            for feed in self.feeds:
                selected = session.run(feed, [*replay.selected.values()])
                feeds.append({**feed, **{fed: selected[name] for fed, name in replay.selected.items()}})
        except ModelError:
            return None
        a, b = (model.edited(proto) for proto, model in ((replay.a, self.a), (replay.b, self.b)))
        job = _ComparisonRun(a, b, self.rtol, self.seed, self.min_sqnr, self.power, self.inner, self.threads)
        found = job.run(feeds, len(feeds), start)
        names = {output.name for output in self.a.outputs}
        outputs = tuple(output for output in found.outputs if output.name in names or output.status != "equal")
        return None if found.status == "unverified" else replace(found, outputs=outputs)

    def feeds_elsewhere(self, count: int) -> list[Feeds] | None:
        """Feeds synthesized with onnxruntime, whose errors name the sizes that a model requires; None where onnxruntime
        already runs the comparison, or cannot run the original."""
        model = self.a.in_runtime("onnxruntime")
        if model is self.a:
            return None
        try:
            session = model.session(optimize=False, threads=self.threads)
            return [s.feeds for s in find_samples(model, session, count, self.seed, self._fits_candidate)]
        except (ModelError, InputError):
            return None

    def _fits_candidate(self, feeds: Feeds) -> bool:
        """Whether feeds for the original have the sizes that a specialized candidate fixes, and a mask that
        GroupQueryAttention defines: not of one column for all keys, nor of padding before a text."""
        mask = feeds.get("attention_mask") if self.is_grouped else None
        if isinstance(mask, np.ndarray) and (mask.shape[-1] < 2 or not mask[..., 0].all()):
            return False
        arrays = ((info, feeds.get(info.name)) for info in self.b.inputs)
        return all(info.has_sizes_of(array.shape) for info, array in arrays if isinstance(array, np.ndarray))

    def _reference(self, feeds: list[Feeds] | None, count: int) -> Reference:
        """Run the original in all its variants; its sessions are closed before the candidate's are opened."""
        options = ReferenceOptions(
            self.rtol, self.seed, self.exact, self.has_random, self.power, self.threads,
            agreed_taps(self.a, self.b) if self.inner else (),
            tuple(dict.fromkeys(s for decider in self.deciders.values() for s in decider.scores)),
        )  # fmt: skip
        return run_reference(self.a, options, feeds, count, self._fits_candidate, self.index)

    def _run_candidate(
        self, reference: Reference, optimize: bool, by_output: dict[str, list[SampleComparison]], suspects: Suspects
    ) -> None:
        taps = reference.taps if not optimize else ()
        session = self.b.session(optimize=optimize, threads=self.threads, taps=taps, strict=True)
        taps = tuple(session.float_taps(taps))
        for number, sample in enumerate(reference.samples):
            fetched = taps if number < len(reference.inner) else ()
            results = session.run(sample.feeds, fetched)
            base = reference.plain[number] if not optimize else sample.results
            for output in self.a.outputs:
                name = output.name
                self._compare_output(reference, number, name, base[name], results[name], by_output)
            for name in fetched:
                self._compare_inner(reference, number, name, results[name], suspects)

    def _compare_output(
        self, reference: Reference, number: int, name: str, ours: Any, theirs: Any,
        by_output: dict[str, list[SampleComparison]],
    ) -> None:  # fmt: skip
        variants = [dict(leaves(name, v[name])) for v in reference.variants[number]]
        candidates = dict(leaves(name, theirs))
        for leaf, a in leaves(name, ours):
            if leaf in candidates:
                others = [v[leaf] for v in variants if leaf in v]
                part = self._compare_leaf(reference, number, name, a, candidates[leaf], others)
            else:
                part = SampleComparison("different", "missing in the candidate", float("inf"))
            if name in self.random:
                reason = f"depends on {self.random[name]}, which has no seed"
                part = SampleComparison("unverified", reason, part.error)
            by_output.setdefault(leaf, []).append(part)

    def _compare_leaf(
        self, reference: Reference, number: int, name: str, a: Array, b: Array, variants: list[Array]
    ) -> SampleComparison:
        if a.dtype != b.dtype:
            return SampleComparison("different", f"{a.dtype} became {b.dtype}", float("inf"))
        if a.dtype.kind == "f":
            return compare_floats(a, b, noise_of(a, variants), self.rtol, self.min_sqnr, self._scale(reference, name))
        if a.dtype.kind == "c":
            noise = max((float(np.max(np.abs(v - a), initial=0.0)) for v in variants), default=0.0)
            parts = [compare_floats(f(a), f(b), noise, self.rtol, self.min_sqnr) for f in (np.real, np.imag)]
            return max(parts, key=lambda part: part.badness)
        decider = self.deciders.get(name)
        if decider is not None and decider.op == "NonMaxSuppression" and same_rows(a, b):
            return SampleComparison("equal")
        if self.min_sqnr is not None and a.dtype.kind in "iu":
            return compare_floats(a.astype(np.float64), b.astype(np.float64), 0.0, self.rtol, self.min_sqnr)
        excused = None
        if decider is not None and a.shape == b.shape and not np.array_equal(a, b):
            scores, moved = reference.scores[number]
            excused = tied(decider, a, b, scores, moved, self.rtol)
        return compare_exact(a, b, variants, excused)

    def _scale(self, reference: Reference, name: str) -> float:
        """The largest magnitude of an output in any sample; at least 1 for operators with results within ±1."""
        if name not in self.scales:
            node = self.index.producer.get(name)
            unit = 1.0 if node is not None and node.op_type in _UNIT_RANGE else 0.0
            arrays = [x for s in reference.samples for _, x in leaves(name, s.results[name]) if x.dtype.kind == "f"]
            self.scales[name] = max([unit, *(magnitude(x) for x in arrays)])
        return self.scales[name]

    def _compare_inner(self, reference: Reference, number: int, name: str, theirs: Array, suspects: Suspects) -> None:
        ours = reference.inner[number][name]
        if name in suspects or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return  # another shape means that the name denotes another value
        times = exceeds(ours, theirs, reference.inner_noise[number][name], self.rtol)
        if times > 1:
            suspects[name] = number, theirs, f"error is {times:.3g} times what is allowed"

    def _confirmed(self, reference: Reference, suspects: Suspects) -> dict[str, str]:
        """Suspects that still differ once their noise under onnxruntime's optimizations is counted, too."""
        if not suspects or self.exact:
            return {name: difference for name, (_, _, difference) in suspects.items()}
        session = self.a.session(optimize=True, threads=self.threads, taps=suspects)
        confirmed = {}
        for name, (number, theirs, difference) in suspects.items():
            optimized = session.run(reference.samples[number].feeds, [name])[name]
            ours = reference.inner[number][name]
            noise = max(reference.inner_noise[number][name], noise_of(ours, [optimized]))
            if exceeds(ours, theirs, noise, self.rtol) > 1:
                confirmed[name] = difference
        return confirmed


def _over_samples(name: str, parts: list[SampleComparison]) -> OutputComparison:
    worst = max(parts, key=lambda part: part.badness)
    return OutputComparison(
        name, worst.status, worst.reason, worst.error, worst.allowed, worst.noise, min(part.sqnr for part in parts),
        min(part.cosine for part in parts), min((part.top1 for part in parts if part.top1 is not None), default=None),
    )  # fmt: skip


def _conclude(outputs: Iterable[OutputComparison], inner_different: Mapping[str, str]) -> tuple[str, str]:
    for status in ("different", "unverified"):
        for output in outputs:
            if output.status == status:
                return status, f"output {output.name}: {output.reason}"
        if status == "different" and inner_different:
            name, difference = next(iter(inner_different.items()))
            return status, f"inner value {name}: {difference}, though the outputs hide it"
    return "equal", ""


def is_same_computation(original: RunnableModel, candidate: RunnableModel) -> bool:
    """Whether the candidate has the original's interface, and each result is the same expression in both."""
    return not interface_difference(original, candidate) and same_structure(original, candidate)


def runs(model: RunnableModel, seed: int) -> bool:
    """Whether onnxruntime loads the model with all optimizations, and runs it on one sample."""
    try:
        return _sample(model, model.session(optimize=True, strict=True, prepack=False), seed) is not None
    except ModelError:
        return False


def emission_fault(original: RunnableModel, emitted: RunnableModel, seed: int) -> str | None:
    """Why the emission cannot replace the original, "" if it can; None where their results on one sample differ.

    Two sessions and one run of each, one after the other. ModelError where the original cannot be loaded.
    """
    session, optimize = loaded(original)
    sample = _sample(original, session, seed)
    del session  # two sessions at once would hold the weights twice
    try:
        session = emitted.session(optimize=optimize)
        results = {} if sample is None else session.run(sample.feeds)
    except ModelError as error:
        return f"the candidate does not run where the original does: {error}"
    return "" if sample is None or all(_is_same(v, results[name]) for name, v in sample.results.items()) else None


def loaded(model: RunnableModel, prepack: bool = True) -> tuple[TappedSession, bool]:
    """A session, and whether it optimizes: without is tried where onnxruntime cannot with. ModelError where neither
    can be."""
    with suppress(ModelError):
        return model.session(optimize=True, prepack=prepack), True
    return model.session(optimize=False, prepack=prepack), False


def are_same(a: RunnableModel, b: RunnableModel) -> bool:
    """Whether the protos and the lent weights that they describe are equal."""
    same = a.proto == b.proto and a.lent.keys() == b.lent.keys()
    return same and all(array is b.lent[name] for name, array in a.lent.items())


def _sample(model: RunnableModel, session: TappedSession, seed: int) -> Sample | None:
    try:
        return find_samples(model, session, 1, seed)[0]
    except (ModelError, InputError):
        return None


def _is_same(a: Any, b: Any) -> bool:
    """Whether two tensors have the same elements; False for anything else, left to the full comparison."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.dtype != b.dtype:
        return False
    return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
