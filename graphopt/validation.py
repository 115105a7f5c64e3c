"""The checks that a result must pass: emission within its budget of bytes, and results equal to the original's."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import onnx_io
from .errors import InputError, ModelError
from .ir import Model
from .measure import Figures, show_bytes
from .pipeline import CheckPolicy, Progress, Verdict
from .pipeline.repro import runnable_feeds

if TYPE_CHECKING:
    from .equivalence import Comparison
    from .equivalence.feeds import Feeds
    from .equivalence.runnable import RunnableModel
    from .onnx_io.lend import Emission, WeightPool
    from .onnx_io.source import ModelSource

_log = logging.getLogger(__name__)

SLACK_SHARE, SLACK_BYTES = 0.01, 4096
"""A file grows by at most this share of its size plus these bytes: room for the names and types that rewrites add to
files of any size."""

NOTHING_CHANGED = "nothing was changed"
SAME_COMPUTATION = (
    "each result is the same expression of inputs and weights; what is written was loaded and run on one sample"
)
"""Why a result that differs from the original only in copies, repeated and unread nodes counts as equal."""


RUNS = 28
"""Runs of a model that a full comparison takes: on four samples three of the original and two of the candidate, and at
least eight with a perturbed weight (`equivalence.reference`, `equivalence.power`)."""


def tell_cost(model: Model, policy: CheckPolicy, progress: Progress | None) -> None:
    """Log, before validation begins, the cost of validating a large model; small models cost little."""
    if policy == "off" or not onnx_io.is_large(model):
        return
    size = show_bytes(onnx_io.weight_bytes(model))
    text = f"validate: up to {RUNS} runs, each of which reads {size} of weights; validate=False leaves it out"
    _log.info(text)
    if progress is not None:
        progress(text, 0.0)


def with_slack(size: int) -> int:
    """The byte limit for a rewritten model of `size` bytes."""
    return size + int(SLACK_SHARE * size) + SLACK_BYTES


class SizeCheck:
    """The result can be emitted, within the original's bytes plus slack."""

    def __init__(self, before: Figures) -> None:
        self.limit = None if before.file_bytes is None else with_slack(before.file_bytes)
        self._last: tuple[Model, Emission] | None = None

    def __call__(self, candidate: Model) -> Verdict:
        """Whether the candidate may be kept."""
        emitted = self._fitting(candidate)
        return emitted if isinstance(emitted, Verdict) else Verdict(True)

    def emitted(self, model: Model) -> Emission:
        """The model as ONNX; the last check's emission where the model is the same."""
        if self._last is not None and self._last[0] is model:
            return self._last[1]
        return onnx_io.emission(model)

    def _fitting(self, candidate: Model) -> Emission | Verdict:
        self._last = None  # frees the last emission: never two models' weights at once
        try:
            emitted = onnx_io.emission(candidate)
        except Exception as error:  # a third-party pass may leave a model that breaks any part of emission
            return Verdict(False, f"the model cannot be written: {type(error).__name__}: {error}")
        size = onnx_io.file_bytes(candidate, emitted)
        if self.limit is not None and size > self.limit:
            return Verdict(False, f"the file would grow to {size} bytes, the limit is {self.limit}")
        self._last = candidate, emitted
        return emitted


class EquivalenceCheck(SizeCheck):
    """A `SizeCheck` that also requires results equal to the reference's; keeps the last comparison and the time spent.

    A result that cannot be verified is refused, too: in doubt the original is kept. One that is the same expression of
    inputs and weights (`equivalence.structure`) is loaded and run, not compared. unverified: the last comparison that
    told nothing. unloadable: why onnxruntime cannot load an original that no pass changed, "" where it can. parsed: the
    reference as ONNX where it was parsed already. given: reads samples of the caller, for a reference on which no
    made-up inputs run; also_given: and beside these. also: samples of the caller, beside made-up ones, that the last
    comparison found equal. grounds: why a candidate without a comparison counts as equal.
    """

    def __init__(
        self, reference: ModelSource | Model, before: Figures, seed: int, parsed: Emission | None = None,
        given: Callable[[], list[Feeds]] | None = None, also_given: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(before)
        self.given, self.also_given, self.also = given, also_given, 0
        self._samples: list[Feeds] | None = None
        self.reference, self.seed, self.parsed = reference, seed, parsed
        self.grounds, self.unloadable = NOTHING_CHANGED, ""
        self._pool: WeightPool | None = None
        self._opened: RunnableModel | None = None
        self._candidate: tuple[Emission, RunnableModel] | None = None
        self.seconds = 0.0
        self.comparison: Comparison | None = None
        self.unverified: Comparison | None = None
        self.feeds: list[Feeds] | None = None

    def __call__(self, candidate: Model) -> Verdict:
        """Whether the candidate may be kept."""
        emitted = self._fitting(candidate)
        if isinstance(emitted, Verdict):
            return emitted
        if self._is_same_computation(emitted):
            self.comparison, self.grounds = None, SAME_COMPUTATION
            return Verdict(True)
        self.comparison = self._compare(emitted, power=True)
        if self.comparison.status == "unverified":
            self.unverified = self.comparison
        return Verdict(self.comparison.status == "equal", self.comparison.reason, self.comparison.worst_error)

    @property
    def ran_nothing(self) -> bool:
        """Whether onnxruntime could not load or run the original."""
        return bool(self.unloadable) if self.comparison is None else self.comparison.samples == 0

    def unchanged(self, candidate: Model) -> Verdict:
        """Whether the emission of an unchanged model may be kept: it loads, and gives equal results on one sample.

        Only a difference refuses it: what cannot be verified is still what it was. `comparison` is None then: that
        of a result that was rolled back says nothing of this one. `unloadable` says why onnxruntime cannot load it.
        """
        self.comparison, self.unloadable = None, ""
        emitted = self._fitting(candidate)
        if isinstance(emitted, Verdict):
            return emitted
        from .equivalence.comparison import are_same, emission_fault, loaded

        self.grounds = NOTHING_CHANGED
        original, written = self._original(), self._open(emitted)
        is_copy = are_same(original, written)
        if not is_copy and self._is_same_computation(emitted):
            return Verdict(True)
        start = time.perf_counter()
        try:
            if is_copy:
                loaded(original, prepack=not original.is_large)  # a second copy of large weights only to load them
            fault = "" if is_copy else emission_fault(original, written, self.seed)
        except ModelError as error:
            self.unloadable, fault = str(error), ""
        self.seconds += time.perf_counter() - start
        if fault is not None:
            return Verdict(not fault, fault)
        comparison = self._compare(emitted, power=False, intermediates=False, samples=1)
        return Verdict(comparison.status != "different", comparison.reason)

    def _fitting(self, candidate: Model) -> Emission | Verdict:
        self._candidate = None  # would keep the last emission alive
        return super()._fitting(candidate)

    def _is_same_computation(self, emitted: Emission) -> bool:
        """Whether results are the same expressions of inputs and weights, and the emission loads and runs."""
        from .equivalence.comparison import is_same_computation, runs

        start = time.perf_counter()
        original, candidate = self._original(), self._open(emitted)
        same = is_same_computation(original, candidate) and runs(candidate, self.seed)
        self.seconds += time.perf_counter() - start
        return same

    def _original(self) -> RunnableModel:
        """The reference, opened once; candidates share its large weights."""
        from .equivalence.runnable import RunnableModel, folder_of, open_runnable
        from .onnx_io.lend import WeightPool
        from .onnx_io.source import is_onnx_ir

        if self._opened is None or self._pool is None:
            self._pool = WeightPool()
            if self.parsed is not None and isinstance(self.reference, (str, os.PathLike)):
                path = Path(self.reference)
                lent = self._pool.adopt(self.parsed.lent)
                opened = RunnableModel(self.parsed.proto, path, path.resolve().parent, lent)
            elif self.parsed is not None and isinstance(self.reference, Model):
                lent = self._pool.adopt(self.parsed.lent)
                opened = RunnableModel(self.parsed.proto, None, folder_of(self.reference), lent)
            else:
                # an onnx_ir.Model knows the folder of its external data, its proto does not
                parsed = None if is_onnx_ir(self.reference) else self.parsed
                opened = open_runnable(self.reference if parsed is None else parsed.whole(), "original")
            self._opened = opened.with_weights_lent(self._pool)
        return self._opened

    def _open(self, emitted: Emission) -> RunnableModel:
        """The candidate, opened; the last call's where the emission is the same."""
        from .equivalence.runnable import RunnableModel

        if self._candidate is None or self._candidate[0] is not emitted:
            self._candidate = None
            folder = self._original().folder
            assert self._pool is not None
            opened = RunnableModel(emitted.proto, None, folder, self._pool.adopt(emitted.lent))
            self._candidate = emitted, opened.with_weights_lent(self._pool)
        return self._candidate[1]

    def probe(self, candidate: Model) -> Verdict:
        """Whether a candidate still fails, cheaply, during bisection: fixed inputs, no power, inner values only where
        they alone differed.
        """
        emitted = self._fitting(candidate)
        if isinstance(emitted, Verdict):
            return emitted
        if self.feeds is None:
            self.feeds = runnable_feeds(self.reference, 4, self.seed)
        last = self.comparison
        inner = last is not None and all(o.status == "equal" for o in last.outputs)
        comparison = self._compare(emitted, self.feeds or None, power=False, intermediates=inner)
        return Verdict(comparison.status == "equal", comparison.reason)

    def _compare(self, emitted: Emission, inputs: Iterable[Feeds] | None = None, **options: Any) -> Comparison:
        from .equivalence import compare

        start = time.perf_counter()
        inputs, self.also = inputs or self._samples, 0
        comparison = compare(self._original(), self._open(emitted), inputs, seed=self.seed, **options)
        if inputs is None and comparison.samples == 0 and self.given is not None:
            with suppress(InputError):  # the caller's samples may have other than the fixed sizes
                samples = self.given()
                comparison = compare(self._original(), self._open(emitted), samples, seed=self.seed, **options)
                self._samples = self.feeds = samples
        elif inputs is None and comparison.is_equal and self.also_given and self.given is not None:
            comparison = self._on_given(emitted, comparison, **options)
        self.seconds += time.perf_counter() - start
        return comparison

    def _on_given(self, emitted: Emission, found: Comparison, **options: Any) -> Comparison:
        """The comparison on the caller's samples where these show a difference; else `found`, that on made-up ones."""
        from .equivalence import compare

        assert self.given is not None
        with suppress(InputError):
            samples = self.given()
            options = {**options, "power": False}
            comparison = compare(self._original(), self._open(emitted), samples, seed=self.seed, **options)
            if comparison.status == "different":
                self.feeds = samples
                return comparison
            self.also = comparison.samples if comparison.is_equal else 0
        return found


def evidence(comparison: Comparison, also: int = 0) -> str:
    """On what grounds a result counts as equal. also: samples of the caller that it was compared on, too."""
    given = f" and on {also} given" if also else "" if comparison.made_up else " that were given"
    text = f"on {comparison.samples} samples{given}, the largest error {comparison.worst_error:.1%} of what is allowed"
    least = "at least " * comparison.is_power_least
    return text if comparison.power is None else f"{text}, power {least}{comparison.power:.0%}"
