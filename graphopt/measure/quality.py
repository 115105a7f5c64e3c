"""Quality of a lossy model: the caller's metric, within a budget of evaluations, and fidelity to the reference."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..calibration.masks import numbers
from ..equivalence.metrics import sqnr_text
from ..errors import OptionError, one_line
from ..ir import Array, Model
from ..onnx_io import to_proto
from .classes import classifications
from .embeddings import PooledVectors, embeddings
from .latency import results_of
from .tokens import TokenScores, next_tokens

Metric = Callable[[Any], float]
MakeSession = Callable[[Model], Any]
"""Opens the session of a candidate: `onnxruntime.InferenceSession`, or `graphopt.Session` for target "graphopt"."""

SAMPLES, HELD = 32, 1 << 26
"""Budgets of time and memory: the most samples of a fidelity, and the most bytes (64 MiB) of held feeds and reference
results, whichever is reached first."""
NINE_OF_TEN = 0.9
"""The share of samples with at least `Fidelity.low_db`; all of fewer than ten. Equal to the floor on agreement of
classes, `graphopt.Quantize.min_top1`."""
_SILENT = 0.01
"""The least signal of a sample, as a share of the mean signal (a tenth in amplitude): results near zero, such as those
of silence, have no meaningful ratio. A choice."""


def metric_name(metric: Metric) -> str:
    """The name of a metric's function as words; "metric" where it has none."""
    named = metric.func if isinstance(metric, partial) else metric
    name = str(getattr(named, "__name__", "")).strip("_<>").replace("_", " ")
    return name if name and name != "lambda" else "metric"


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The fidelity of a candidate's results to the reference's, over samples and all float outputs.

    sqnr_db: signal to noise of the worst output. top1: the share of rows with the same largest element, of the worst
    output with class scores (`classifications`); largest: the same of the worst output [N, C] or [N, S, C] of any kind.
    None without such an output. low_db: the signal to noise that nine of ten samples reach, each by itself, of the
    worst output, so that few samples with loud results do not outweigh bad ones. divergence: of next-token scores, the
    mean over positions of KL(reference ‖ candidate) in nats, or None. perplexity: of the input text, for the reference
    and for the candidate, where tokens are an input. cosine: of token vectors, averaged over each text, the mean cosine
    with the reference's; of the worst such output, None without one.
    """

    sqnr_db: float
    top1: float | None
    largest: float | None
    low_db: float = math.inf
    divergence: float | None = None
    perplexity: tuple[float, float] | None = None
    cosine: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Plain data for JSON; None for an infinite ratio. With the divergence of a language model, the cosine of a
        text encoder."""
        finite = self.sqnr_db if math.isfinite(self.sqnr_db) else None
        tokens = {} if self.divergence is None else {"divergence": self.divergence}
        texts = {} if self.cosine is None else {"cosine": self.cosine}
        return {"sqnr_db": finite, "top1": self.top1, "largest": self.largest, **tokens, **texts}

    def __str__(self) -> str:
        top1 = "" if self.top1 is None else f", top-1 agreement {self.top1:.2%}"
        return f"{sqnr_text(self.sqnr_db)}{top1}{self.tokens}{self.texts}"

    @property
    def texts(self) -> str:
        """The cosine as text; "" for models that are no text encoders."""
        return "" if self.cosine is None else f", cosine {self.cosine:.4f} of pooled vectors"

    @property
    def tokens(self) -> str:
        """Divergence and perplexity as text; "" for models that are no language models."""
        if self.divergence is None:
            return ""
        before, after = self.perplexity or (math.nan, math.nan)
        text = "" if self.perplexity is None else f", perplexity {before:.2f} → {after:.2f}"
        return f", KL {self.divergence:.3f}{text}"


class Quality:
    """Judges candidates against one reference model.

    metric: called with a session; higher is better. Scores are cached by the model's bytes, and `left` counts the
    evaluations that the budget still allows. feeds: the samples that fidelity is measured on. classifications: the
    reference's results that hold scores of classes, with the operators that make them. seen: its results on the feeds,
    where it was run on them already: to run a large model again would take long.
    """

    def __init__(
        self, reference: Model, session: MakeSession, feeds: Iterable[dict[str, Any]], metric: Metric | None = None,
        *, evaluations: int = 64, samples: int = SAMPLES, seen: Sequence[Run] = (),
    ) -> None:  # fmt: skip
        self.reference, self.session, self.feeds, self.metric = reference, session, feeds, metric
        self.evaluations, self.samples, self._seen = evaluations, samples, seen
        self.classifications = classifications(reference)
        self.next_tokens = next_tokens(reference, self.classifications)
        self.embeddings = embeddings(reference, self.classifications)
        self._scores: dict[str, float] = {}
        self._results: list[Expected] | None = None
        self._base: float | None = None
        self._rows: _Rows | None = None
        self._last: tuple[Model, int | None, Fidelity] | None = (
            None  # guards ask for the fidelity of a model, then its report does
        )

    @property
    def left(self) -> int:
        """The remaining budget of evaluations of the metric."""
        return max(0, self.evaluations - len(self._scores))

    @property
    def base(self) -> float:
        """The reference's score; not part of the budget. OptionError when the metric gives no number."""
        if self._base is None:
            self._rows = _Rows()
            self._base = self._evaluate(self.reference, self._rows)
        return self._base

    @property
    def rows(self) -> int:
        """The number of rows that the metric ran through the reference; 0 if unknown."""
        return 0 if self._rows is None else self._rows.count

    @property
    def held(self) -> int:
        """The number of samples held for fidelity so far."""
        return 0 if self._results is None else len(self._results)

    def score(self, model: Model) -> float:
        """The metric of a candidate. OptionError without a metric, or if it returns no number."""
        digest = hashlib.sha256(to_proto(model).SerializeToString(deterministic=True)).hexdigest()
        if digest not in self._scores:
            self._scores[digest] = self._evaluate(model)
        return self._scores[digest]

    def drop(self, model: Model) -> float:
        """The fall of the metric below the reference's; negative for a better candidate."""
        return self.base - self.score(model)

    def fidelity(self, model: Model, samples: int | None = None) -> Fidelity:
        """Signal to noise and top-1 agreement with the reference, on all samples held or the first few."""
        if self._last is not None and self._last[0] is model and self._last[1] == samples:
            return self._last[2]
        expected = self._expected[:samples]  # the reference runs alone: two open sessions hold two models' weights
        fidelity = self._judge(self.session(model), expected)
        self._last = (model, samples, fidelity)
        return fidelity

    def fidelity_of(self, session: Any, samples: int | None = None) -> Fidelity:
        """`fidelity` of a candidate's open session."""
        return self._judge(session, self._expected[:samples])

    def fidelities(
        self, models: Iterable[Model], samples: int | None = None, executor: Executor | None = None
    ) -> Iterator[Fidelity]:
        """The fidelity of each model, in order; on the workers of an executor, in onnxruntime on one thread each."""
        if executor is None:
            return (self.fidelity(model, samples) for model in models)
        from .away import on_workers

        return on_workers(executor, self._judge, models, self._expected[:samples])

    @property
    def _judge(self) -> Callable[[Any, list[Expected]], Fidelity]:
        return partial(
            fidelity_of, classifications=frozenset(self.classifications), next_tokens=self.next_tokens,
            embeddings=self.embeddings,
        )  # fmt: skip

    @property
    def _expected(self) -> list[Expected]:
        if self._results is None:
            self._results = self._run_reference()
        return self._results

    def require_running(self, model: Model) -> None:
        """Load a candidate and run it once, unless it was the last to run. Raises whatever the runtime raises."""
        if self._last is None or self._last[0] is not model:
            session = self.session(model)
            for feed in itertools.islice(self.feeds, 1):
                session.run(None, feed)

    def _run_reference(self) -> list[Expected]:
        held, expected = 0, list[Expected]()
        for feed, given in self._seen or self._runs():
            results = [np.asarray(r) for r in given]
            expected.append((feed, [_Expected.of(result) for result in results]))
            held += sum(r.nbytes for r in results) + sum(np.asarray(v).nbytes for v in feed.values())
            if len(expected) >= self.samples or held > HELD:
                break
        return expected

    def _runs(self) -> Iterator[Run]:
        session = self.session(self.reference)
        return ((feed, session.run(None, feed)) for feed in self.feeds)

    def _evaluate(self, model: Model, rows: _Rows | None = None) -> float:
        if self.metric is None:
            raise OptionError("max_drop= needs metric=")
        session = self.session(model)
        if rows is not None:
            rows.watch(session)
        try:
            value = self.metric(session)
        except Exception as error:  # the caller's function may raise anything
            raise OptionError(f"metric: it raised {type(error).__name__}: {one_line(error)}") from error
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = math.nan
        if math.isnan(score):
            raise OptionError(f"metric: expected a number, got {value!r}")
        return score


class _Rows:
    """Counts the rows of a session's runs: the inputs' leading size if the first result has it, too, else 1 a run."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, session: Any) -> None:
        """Count from now on; nothing where the session's `run` cannot be replaced."""
        run = session.run

        def counted(*given: Any, **named: Any) -> Any:
            results = run(*given, **named)
            feeds = next((value for value in (*given, *named.values()) if isinstance(value, Mapping)), {})
            sizes = {np.shape(feed)[0] for feed in feeds.values() if np.ndim(feed) > 1}
            leading = np.shape(results[0])[:1] if results else ()
            self.count += sizes.pop() if len(sizes) == 1 and (*sizes,) == leading else 1
            return results

        with suppress(AttributeError):
            session.run = counted


@dataclass(frozen=True, slots=True)
class _Expected:
    """One result of the reference, with the parts of a comparison that depend on the reference alone.

    signal: the sum of squares. kept: the mask of counted elements, None if all: NaN, infinite and mask values are not
    counted. best: the index of each row's largest element, if the result has the rank of class scores ([N, C] or
    [N, S, C]; maps have more axes).
    """

    array: Array
    signal: float
    kept: Array | None
    best: Array | None

    @classmethod
    def of(cls, array: Array) -> _Expected:
        if array.dtype.kind != "f" or array.size == 0:
            return cls(array, 0.0, None, None)
        kept = numbers(array)
        scores = array.ndim in (2, 3) and array.shape[-1] >= 2
        inside = array if kept is None else array[kept]
        return cls(array, _energy(inside), kept, array.argmax(axis=-1) if scores else None)


Run = tuple[dict[str, Any], Sequence[Any]]
"""A sample, and the reference's results, in order."""

Expected = tuple[dict[str, Any], list[_Expected]]
"""A sample, and the reference's results."""


def fidelity_of(
    session: Any, samples: Sequence[Expected], classifications: frozenset[int], next_tokens: frozenset[int],
    embeddings: frozenset[int] = frozenset(),
) -> Fidelity:  # fmt: skip
    """Signal to noise and top-1 agreement of a session's results with the reference's."""
    tallies = [_Tally() for _ in samples[0][1]] if samples else []
    scores, vectors = TokenScores(), {i: PooledVectors() for i in embeddings}
    runs = results_of(session, [feed for feed, _ in samples])
    for (feed, expected), results in zip(samples, runs):
        for i, (reference, result) in enumerate(zip(expected, results)):
            tallies[i].add(reference, np.asarray(result))
            if i in next_tokens:
                scores.add(reference.array, np.asarray(result), feed)
            if i in embeddings:
                vectors[i].add(reference.array, np.asarray(result), feed)
    ratios = [t.sqnr_db for t in tallies if t.signal > 0.0]
    shares = {i: t.same / t.rows for i, t in enumerate(tallies) if t.rows}
    return Fidelity(
        min(ratios, default=math.inf),
        min((share for i, share in shares.items() if i in classifications), default=None),
        min(shares.values(), default=None),
        min((t.low_db for t in tallies if t.signal > 0.0), default=math.inf),
        scores.divergence,
        scores.perplexity,
        min((found.cosine for found in vectors.values() if found.cosine is not None), default=None),
    )


def _energy(array: Array) -> float:
    """The sum of squares, accumulated in float64 without a float64 copy of the array."""
    flat = array.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


class _Tally:
    """Accumulates the comparison of one output over samples."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self.rows = self.same = 0
        self.samples: list[tuple[float, float]] = []

    def add(self, expected: _Expected, result: Array) -> None:
        reference = expected.array
        if reference.dtype.kind != "f" or reference.size == 0:
            return
        if reference.shape != result.shape:
            self.signal, self.noise = 1.0, math.inf
            self.samples.append((1.0, math.inf))
            return
        with np.errstate(invalid="ignore", over="ignore"):  # infinite minus infinite: the mask drops it
            wrong = reference.astype(np.promote_types(reference.dtype, np.float32), copy=False) - result
            noise = _energy(wrong if expected.kept is None else wrong[expected.kept])
        self.signal += expected.signal
        self.noise += noise if math.isfinite(noise) else math.inf
        self.samples.append((expected.signal, noise if math.isfinite(noise) else math.inf))
        if expected.best is not None:
            same = expected.best == result.argmax(axis=-1)
            self.rows += same.size
            self.same += int(same.sum())

    @property
    def sqnr_db(self) -> float:
        return _decibels(self.signal, self.noise)

    @property
    def low_db(self) -> float:
        """The signal to noise in dB that nine of ten samples reach."""
        least = _SILENT * self.signal / max(1, len(self.samples))
        ratios = sorted(_decibels(max(signal, least), noise) for signal, noise in self.samples)
        return ratios[int(len(ratios) * (1.0 - NINE_OF_TEN) + 1e-9)] if ratios else math.inf


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return -math.inf if math.isinf(noise) else 10.0 * math.log10(signal / noise)
