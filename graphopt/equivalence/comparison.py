"""Compare two models: the proof that a rewrite changed no result.

Per output and sample, max|a − b| ≤ max(rtol · max|b|, 3 · noise), where noise is the spread of the original a between
onnxruntime with all optimizations and with none, and under a one-ulp change of its float inputs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError, ModelError
from ..ir import Array
from .equality import Verdict, exceeds, judge_exact, judge_floats, leaves, noise_of
from .metrics import magnitude
from .reference import Plan, Reference, agreed_taps, run_reference
from .result import Comparison, OutputComparison
from .runnable import Source, open_source
from .semantics import Index
from .synthesis import Feeds, given_feeds
from .ties import Selection, find_selection, random_outputs, same_rows, tied

Suspects = dict[str, tuple[int, Array, str]]
"""Inner values that seem to differ: in which sample, the candidate's array, and by how much."""

_UNIT_RANGE = ("Sigmoid", "HardSigmoid", "Softmax", "Tanh", "Erf", "Softsign", "Sin", "Cos")


def compare(
    a: Any,
    b: Any,
    inputs: Any = None,
    samples: int = 4,
    rtol: float = 1e-4,
    *,
    seed: int = 0,
    min_sqnr: float | None = None,
    power: bool = True,
    intermediates: bool = True,
    threads: int | None = None,
) -> Comparison:
    """Whether the candidate `b` computes what the original `a` does.

    a, b: path, bytes, onnx.ModelProto, onnx_ir.Model or graphopt.ir.Model.
    inputs: None (feeds are made up that `a` runs on), a dict of arrays, an iterable of dicts, a dict of stacked arrays,
        an object with `get_next()`, or the path of an .npz or .npy file.
    samples: how many feeds are made up. rtol: tolerance relative to max|b|, raised to four epsilons of the output's
        dtype for float16 and bfloat16. min_sqnr: for lossy candidates, asks for this SQNR in dB in place of rtol.
    power: also measure which share of 1 % perturbations of single weights would be noticed.
    intermediates: also compare inner values that both models have. threads: of onnxruntime; None leaves it to decide.

    A candidate that fails where the original runs is different; an original that does not run is unverified. Raises
    ModelError for what is no model, InputError when the given inputs do not fit the original.
    """
    start = time.perf_counter()
    source_a, source_b = open_source(a, "original"), open_source(b, "candidate")
    if source_b.folder is None and source_b.external_bytes:
        source_b.folder = source_a.folder
    told = interface_difference(source_a, source_b)
    if told:
        return Comparison("different", told)
    job = _Job(source_a, source_b, rtol, seed, min_sqnr, power, intermediates and min_sqnr is None, threads)
    feeds = None if inputs is None else given_feeds(inputs, source_a)
    return job.run(feeds, samples, start)


def interface_difference(a: Source, b: Source) -> str:
    """In what inputs and outputs of two models differ: names, element types, ranks, fixed sizes; "" if in nothing."""
    for what, ours, theirs in (("inputs", a.inputs, b.inputs), ("outputs", a.outputs, b.outputs)):
        names, others = [p.name for p in ours], [p.name for p in theirs]
        if (names != others) if what == "outputs" else (sorted(names) != sorted(others)):
            return f"the {what} {names} became {others}"
        by_name = {p.name: p for p in theirs}
        for p in ours:
            q = by_name[p.name]
            if p.type.WhichOneof("value") != q.type.WhichOneof("value") or p.elem != q.elem:
                return f"the type of {what[:-1]} {p} became {q}"
            if p.dims is None or q.dims is None:
                continue
            if len(p.dims) != len(q.dims) or any(_conflict(m, n) for m, n in zip(p.dims, q.dims)):
                return f"the shape of {what[:-1]} {p} became {q}"
    return ""


def _conflict(m: int | str | None, n: int | str | None) -> bool:
    return isinstance(m, int) and isinstance(n, int) and m > 0 and n > 0 and m != n


class _Job:
    def __init__(
        self, a: Source, b: Source, rtol: float, seed: int, min_sqnr: float | None, power: bool, inner: bool,
        threads: int | None,
    ) -> None:  # fmt: skip
        self.a, self.b, self.rtol, self.seed, self.min_sqnr = a, b, rtol, seed, min_sqnr
        self.power, self.inner, self.threads = power, inner, threads
        self.exact = a.is_quantized or b.is_quantized
        self.index = Index(a)
        self.random, self.has_random = random_outputs(self.index, [p.name for p in a.outputs])
        self.scales: dict[str, float] = {}
        self.selections: dict[str, Selection] = {}
        for port in a.outputs:
            found = find_selection(port.name, self.index) if port.elem not in (1, 10, 11, 16) else None
            if found is not None:
                self.selections[port.name] = found

    def run(self, feeds: list[Feeds] | None, count: int, start: float) -> Comparison:
        try:
            reference = self._reference(feeds, count)
        except (ModelError, InputError) as error:
            return Comparison("unverified", str(error))
        worst: dict[str, list[Verdict]] = {}
        suspects: Suspects = {}
        try:
            for optimize in (False,) if self.exact else (False, True):
                self._judge_candidate(reference, optimize, worst, suspects)
        except ModelError as error:
            return Comparison("different", f"the candidate does not run where the original does: {error}")
        outputs = tuple(_summary(name, verdicts) for name, verdicts in worst.items())
        inner_bad = self._confirmed(reference, suspects)
        status, reason = _conclude(outputs, inner_bad)
        return Comparison(
            status, reason, outputs, len(reference.samples),
            tuple({n: np.shape(v) for n, v in s.feeds.items()} for s in reference.samples), len(reference.taps),
            tuple(inner_bad), reference.power, reference.perturbations, time.perf_counter() - start,
        )  # fmt: skip

    def _fits_candidate(self, feeds: Feeds) -> bool:
        """Whether feeds found for the original have the sizes a specialised candidate was made for."""
        for port in self.b.inputs:
            value = feeds.get(port.name)
            if port.dims is None or not isinstance(value, np.ndarray):
                continue
            if any(isinstance(d, int) and d > 0 and d != n for d, n in zip(port.dims, value.shape)):
                return False
        return True

    def _reference(self, feeds: list[Feeds] | None, count: int) -> Reference:
        """Run the original in all its variants; release its sessions before the candidate's are made."""
        plan = Plan(
            self.rtol, self.seed, self.exact, self.has_random, self.power, self.threads,
            agreed_taps(self.a, self.b) if self.inner else (),
            tuple(dict.fromkeys(s for found in self.selections.values() for s in found.scores)),
        )  # fmt: skip
        return run_reference(self.a, plan, feeds, count, self._fits_candidate, self.index)

    def _judge_candidate(
        self, reference: Reference, optimize: bool, worst: dict[str, list[Verdict]], suspects: Suspects
    ) -> None:
        taps = reference.taps if not optimize else ()
        session = self.b.session(optimize=optimize, threads=self.threads, taps=taps)
        taps = tuple(session.float_taps(taps))
        for number, sample in enumerate(reference.samples):
            fetched = taps if number < len(reference.inner) else ()
            results = session.run(sample.feeds, fetched)
            base = reference.plain[number] if not optimize else sample.results
            for port in self.a.outputs:
                self._judge_output(reference, number, port.name, base[port.name], results[port.name], worst)
            for name in fetched:
                self._judge_inner(reference, number, name, results[name], suspects)

    def _judge_output(
        self, reference: Reference, number: int, name: str, ours: Any, theirs: Any, worst: dict[str, list[Verdict]]
    ) -> None:
        variants = [dict(leaves(name, v[name])) for v in reference.variants[number]]
        got = dict(leaves(name, theirs))
        for leaf, a in leaves(name, ours):
            others = [v[leaf] for v in variants if leaf in v]
            if leaf not in got:
                verdict = Verdict("different", "missing in the candidate", float("inf"))
            else:
                verdict = self._judge_leaf(reference, number, name, a, got[leaf], others)
            if name in self.random:
                verdict = Verdict("unverified", f"depends on {self.random[name]}, which has no seed", verdict.error)
            worst.setdefault(leaf, []).append(verdict)

    def _judge_leaf(
        self, reference: Reference, number: int, name: str, a: Array, b: Array, variants: list[Array]
    ) -> Verdict:
        if a.dtype != b.dtype:
            return Verdict("different", f"{a.dtype} became {b.dtype}", float("inf"))
        if a.dtype.kind == "f":
            return judge_floats(a, b, noise_of(a, variants), self.rtol, self.min_sqnr, self._scale(reference, name))
        if a.dtype.kind == "c":
            noise = max((float(np.max(np.abs(v - a), initial=0.0)) for v in variants), default=0.0)
            parts = [judge_floats(f(a), f(b), noise, self.rtol, self.min_sqnr) for f in (np.real, np.imag)]
            return max(parts, key=lambda v: v.badness)
        selection = self.selections.get(name)
        if selection is not None and selection.op == "NonMaxSuppression" and same_rows(a, b):
            return Verdict("equal")
        if self.min_sqnr is not None and a.dtype.kind in "iu":
            return judge_floats(a.astype(np.float64), b.astype(np.float64), 0.0, self.rtol, self.min_sqnr)
        excused = None
        if selection is not None and a.shape == b.shape and not np.array_equal(a, b):
            scores, moved = reference.scores[number]
            excused = tied(selection, a, b, scores, moved, self.rtol)
        return judge_exact(a, b, variants, excused)

    def _scale(self, reference: Reference, name: str) -> float:
        """The largest magnitude of an output in any sample; at least 1 for what its operator squeezes into ±1."""
        if name not in self.scales:
            node = self.index.producer.get(name)
            unit = 1.0 if node is not None and node.op_type in _UNIT_RANGE else 0.0
            arrays = [x for s in reference.samples for _, x in leaves(name, s.results[name]) if x.dtype.kind == "f"]
            self.scales[name] = max([unit, *(magnitude(x) for x in arrays)])
        return self.scales[name]

    def _judge_inner(self, reference: Reference, number: int, name: str, theirs: Array, suspects: Suspects) -> None:
        ours = reference.inner[number][name]
        if name in suspects or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return  # another shape means that the name was given to another value
        times = exceeds(ours, theirs, reference.inner_noise[number][name], self.rtol)
        if times > 1:
            suspects[name] = number, theirs, f"error is {times:.3g} times what is allowed"

    def _confirmed(self, reference: Reference, suspects: Suspects) -> dict[str, str]:
        """Inner values that still differ once their noise under onnxruntime's optimizations is known as well."""
        if not suspects or self.exact:
            return {name: told for name, (_, _, told) in suspects.items()}
        session = self.a.session(optimize=True, threads=self.threads, taps=suspects)
        confirmed = {}
        for name, (number, theirs, told) in suspects.items():
            other = session.run(reference.samples[number].feeds, [name])[name]
            ours = reference.inner[number][name]
            noise = max(reference.inner_noise[number][name], noise_of(ours, [other]))
            if exceeds(ours, theirs, noise, self.rtol) > 1:
                confirmed[name] = told
        return confirmed


def _summary(name: str, verdicts: list[Verdict]) -> OutputComparison:
    bad = max(verdicts, key=lambda v: v.badness)
    tops = [v.top1 for v in verdicts if v.top1 is not None]
    return OutputComparison(
        name, bad.status, bad.reason, bad.error, bad.allowed, bad.noise, min(v.sqnr for v in verdicts),
        min(v.cosine for v in verdicts), min(tops) if tops else None,
    )  # fmt: skip


def _conclude(outputs: Iterable[OutputComparison], inner_bad: Mapping[str, str]) -> tuple[str, str]:
    for status in ("different", "unverified"):
        for out in outputs:
            if out.status == status:
                return status, f"output {out.name}: {out.reason}"
        if status == "different" and inner_bad:
            name, told = next(iter(inner_bad.items()))
            return status, f"inner value {name}: {told}, though the outputs hide it"
    return "equal", ""
