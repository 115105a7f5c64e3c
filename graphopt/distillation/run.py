"""`graphopt.distil`: train a student on its teacher's results, judge it on held-out samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import check_arguments
from ..calibration import Calibration, CalibrationData, Preprocess, open_calibration
from ..errors import InputError, ModelError, OptionError
from ..gradient import Trainer
from ..ir import Array, Model, TensorType, clone_model
from ..machine.files import check_target
from ..measure import Fidelity, Quality, figures, ort_session
from ..onnx_io import external_bytes, load, to_proto
from ..pipeline import Progress
from .codes import Codes, store, with_floats
from .criterion import Criterion
from .epochs import Epochs, Variety, mirrored
from .loop import Judged, Task, digest_of, run
from .matching import (
    Pair,
    RelativeError,
    Tapped,
    Weighted,
    anchor_pairs,
    inner_candidates,
    is_alike,
    label_pairs,
    leaves_out_unknown,
    result_pairs,
    spread,
)
from .muon import Muon
from .options import HELD, LABELLED, MOST_TIMES, PLENTY, STEPS, Distil
from .result import Distilled, DistilReport
from .running import run_session
from .samples import Batch, Samples
from .teacher import Targets

if TYPE_CHECKING:
    from ..gradient.losses import Loss
    from ..onnx_io.source import ModelSource

_MIRRORED = 0.1
"""The change of the teacher's results on mirrored images, as a share of their energy, up to which students see mirrored
images: 0.04 for classifiers of clothes trained on mirrored images, 0.93 upside down."""
_INNER = 1.0
"""The total loss weight of inner values beside 1 for each output (`python -m tests.bench.distillation --sweep`)."""


def distil(
    student: ModelSource | Model, teacher: ModelSource | Model | None, data: CalibrationData, *,
    labels: Array | Mapping[str, Array] | None = None, preprocess: str | Preprocess | None = None, seed: int = 0,
    progress: Progress | None = None, options: Distil | None = None, **given: Any,
) -> Distilled:  # fmt: skip
    """Train the weights of `student` to reproduce the results of `teacher` on `data`, in onnxruntime; needs no labels.

    student, teacher: paths, bytes, protos; the student is the pruned or quantized teacher, or any model with inputs and
    outputs of the same names. teacher: None where `labels` alone are learnt. data: samples, as `calibration=` of
    `optimize` takes them. labels: for the first float output, or by output's name, an array with a row a sample:
    classes i64 (cross entropy) or numbers. Further keywords are the fields of `graphopt.Distil`, or `options` holds
    them. seed: of every random choice. progress: called with (step, fraction done).

    Where labels alone are learnt, the student also keeps its own results at the start, as far as they explain the
    labels.

    Some samples are held out. The returned weights have the least held-out error of all evaluations, or are later ones
    with an error at most a twentieth above, and agree with the teacher's classes as often as the student's own, but for
    2 %: the student's own weights where no others are better, and with labels alone where no others are significantly
    better. Beside a teacher, which judges, label losses must not rise significantly.

    Names, metadata and untrained parts stay unchanged. BatchNormalization uses its running statistics, as at inference,
    and keeps them; its scale and bias are trained. A quantized student (QuantizeLinear and DequantizeLinear) is trained
    through fake quantization, and its weights are quantized again.

    The same models, data, options and seed give the same weights. InputError, OptionError, ModelError, one line each.
    """
    check_arguments(distil, locals())
    if options is None:
        unknown = [name for name in given if name not in Distil.__dataclass_fields__]
        if unknown:
            raise OptionError(
                f"distil: no option is named {unknown[0]}: there are {', '.join(Distil.__dataclass_fields__)}"
            )
        options = Distil(**given)
    elif given:
        raise OptionError(f"distil: {next(iter(given))} is given beside options=")
    student = student if isinstance(student, Model) else load(student)
    if teacher is not None and not isinstance(teacher, Model):
        teacher = load(teacher)
    feeds = open_calibration(data, student, seed=seed, preprocess=preprocess)
    return distil_model(student, teacher, feeds, options, labels=labels, seed=seed, progress=progress)


def distil_model(
    student: Model, teacher: Model | None, feeds: Calibration, options: Distil, *,
    labels: Array | Mapping[str, Array] | None = None, seed: int = 0, progress: Progress | None = None,
) -> Distilled:  # fmt: skip
    """`distil` on models of the IR, without editing them."""
    start = time.perf_counter()
    if feeds.is_synthetic:
        raise InputError("distil: made-up inputs teach nothing: give samples of the kind that the model will see")
    if teacher is None and labels is None:
        raise OptionError("distil: give a teacher, or labels")
    if options.checkpoint is not None:
        check_target(options.checkpoint)
    work = _Work(student, teacher, feeds, options, labels, seed)
    before = work.judge({})
    if not np.isfinite(before.error):
        raise InputError(
            f"distil: the loss of the student is {before.error} on the samples held out, before any training"
        )
    task = work.task()
    done = run(task, before, options.learning_rate, options.checkpoint, progress or (lambda what, share: None))
    trained = student if done.best is None else work.emitted(done.best)
    quality = work.quality()
    near, nearer = (None, None) if quality is None else (quality(student), quality(trained))
    report = DistilReport(
        error_before=before.error, error_after=done.error, fidelity_before=near, fidelity_after=nearer,
        samples=work.samples.count, held_out=len(work.samples.held), steps=done.step, best_step=done.at,
        learning_rate=done.rate, matched=tuple(pair.name for pair in work.pairs), stopped=done.stopped,
        history=tuple(done.history), seconds=time.perf_counter() - start,
    )  # fmt: skip
    return Distilled(trained, report, external_bytes(student) > 0)


class _Work:
    """The setup of a run: student, teacher, samples, and pairs of values and targets."""

    def __init__(
        self, student: Model, teacher: Model | None, feeds: Calibration, options: Distil,
        labels: Array | Mapping[str, Array] | None, seed: int,
    ) -> None:  # fmt: skip
        self.student, self.options, self.seed = student, options, seed
        named = _by_output(labels, student)
        try:
            self.samples = Samples(feeds, student, options.holdout or (HELD if teacher else LABELLED), named)
        except MemoryError:
            raise InputError("distil: memory does not suffice for the samples: give fewer") from None
        floats = clone_model(student)
        self.stored: dict[str, Codes] = with_floats(floats)
        self.tapped = Tapped(floats)
        self.teacher = None if teacher is None else Tapped(clone_model(teacher))
        _check_inputs(self.samples, self.teacher)
        self.pairs: list[Pair] = []
        if self.teacher is not None:
            self.pairs += result_pairs(self.tapped, self.teacher, options.loss)
        if named:
            losses = options.loss if isinstance(options.loss, Mapping) else dict.fromkeys(named, options.loss)
            own: dict[str, str | Loss] = {} if self.teacher is not None else dict(losses)
            self.pairs += label_pairs(self.tapped, named, own)
        if self.teacher is not None and options.inner:
            self.pairs += self._inner()
        labelled = [pair for pair in self.pairs if not pair.teacher]
        self.judges = labelled if self.teacher is None else [pair for pair in self.pairs if pair.teacher]
        self.guide = self.teacher or Tapped(clone_model(student))
        if self.teacher is None:
            self.pairs += anchor_pairs(self.tapped, self.guide, self.samples, options.batch_size, options.threads)
        self.criterion = Criterion(self.judges)
        self.labelled = Criterion(labelled) if labelled else None
        self.held = self.samples.batches_of(self.samples.held, options.batch_size)
        self.targets = Targets(self.guide, self.pairs, self.samples, options.threads)
        self._expected = [(batch, self.targets.of(batch)) for batch in self.held]

    def task(self) -> Task:
        """The training of the student."""
        options = self.options
        trainer = Trainer(
            self.tapped.model, options.weights, loss={p.name: Weighted(p.loss, p.weight) for p in self.pairs},
            optimizer=Muon(), threads=options.threads,
        )  # fmt: skip
        mirrors = self._bears_mirrors() if options.mirrors is None else options.mirrors
        combines = not self.samples.labels or self._bears_unknown()
        shares = (options.mixing, options.patches) if combines else (0.0, 0.0)
        variety = Variety(*shares, options.shifts, mirrors)
        epochs = Epochs(self.samples, options.batch_size, self.seed, variety)
        steps = options.epochs * epochs.steps if options.epochs is not None else options.steps or self._usual_steps()
        plain = replace(options, checkpoint=None)
        teacher = b"" if self.teacher is None else _bytes(self.teacher.model)
        digest = digest_of(_bytes(self.student), teacher, self.samples.digest(), plain, self.seed)
        return Task(trainer, epochs, self.targets, self.judge, steps, digest)

    def _usual_steps(self) -> int:
        """Default steps for the student's share of its teacher's multiply-accumulates: see `PLENTY`."""
        whole = 0 if self.teacher is None else figures(self.teacher.model).macs
        share = figures(self.tapped.model).macs / whole if whole else 1.0
        return round(STEPS * min(MOST_TIMES, max(1.0, PLENTY / max(share, 1e-9))))

    def emitted(self, weights: Mapping[str, Array]) -> Model:
        """A copy of the student that stores `weights`."""
        model = clone_model(self.student)
        store(model, weights, self.stored)
        return model

    def judge(self, weights: Mapping[str, Array]) -> Judged:
        """Held-out figures of the student as emitted with these weights."""
        model = clone_model(self.tapped.model)
        store(model, {n: self._as_emitted(n, array) for n, array in weights.items()}, {})
        pairs = list(dict.fromkeys((*self.judges, *(self.labelled.pairs if self.labelled else ()))))
        names = [pair.name for pair in pairs]
        session = ort_session(model, threads=self.options.threads)
        losses, agreed, decided, single = np.zeros(len(self.judges)), 0, 0, list[float]()
        for batch, targets in self._expected:
            results = dict(zip(names, run_session(session, names, batch.feeds, "the student's result")))
            losses += self.criterion.losses(results, targets) * len(batch.rows)
            if self.labelled is not None:
                single += self.labelled.row_totals(results, targets, len(batch.rows))
            for pair in pairs:
                if pair.holds_scores:
                    classes, target = results[pair.name].argmax(-1), targets[f"{pair.name}.target"]
                    same = classes == (target if target.shape == classes.shape else target.argmax(-1))
                    agreed, decided = agreed + int(same.sum()), decided + same.size
        error = self.criterion.total(losses / len(self.samples.held))
        return Judged(error, agreed / decided if decided else 1.0, tuple(single), self.teacher is None)

    def quality(self) -> Callable[[Model], Fidelity] | None:
        """The fidelity to the teacher on the samples held out, as a function of a model; None without a teacher."""
        if self.teacher is None:
            return None
        held = [batch.feeds for batch in self.held]
        reference = clone_model(self.teacher.model)
        count = len(self.teacher.model.graph.outputs) - len(self.teacher.taps)
        reference.graph.set_outputs(reference.graph.outputs[:count], reference.graph.ports[:count])
        quality = Quality(reference, lambda m: ort_session(m, threads=self.options.threads), held)

        return quality.fidelity

    def _bears_mirrors(self) -> bool:
        """Whether mirroring the samples changes the teacher's results by less than `_MIRRORED` of their energy."""
        inner = set(self.guide.taps.values())
        names = [f"{pair.name}.target" for pair in self.pairs if pair.teacher and pair.teacher not in inner]
        if not names or not self.samples.are_mixable:
            return False
        distance, energy = 0.0, 0.0
        for batch, expected in self._expected:
            found = self.targets.of(mirrored(batch, np.ones(len(batch.rows), bool)))
            for name in names:
                distance += float(np.square(found[name] - expected[name], dtype=np.float64).sum())
                energy += float(np.square(expected[name], dtype=np.float64).sum())
        return distance < _MIRRORED * energy

    def _bears_unknown(self) -> bool:
        """Whether rows of an unknown class are useful: there is a teacher, and every label loss ignores such rows."""
        guided = any(pair.teacher for pair in self.pairs)
        return guided and all(pair.teacher or leaves_out_unknown(pair.loss) for pair in self.pairs)

    def _as_emitted(self, name: str, array: Array) -> Array:
        codes = self.stored.get(name)
        return array if codes is None else codes.floats(codes.codes(array))

    def _inner(self) -> Iterator[Pair]:
        """Pairs of inner values of student and teacher that are alike on a batch of samples."""
        assert self.teacher is not None
        found = inner_candidates(self.tapped.model.graph, self.teacher.model.graph)
        chosen = spread(found)
        if not chosen:
            return
        ours, theirs = Tapped(clone_model(self.tapped.model)), Tapped(clone_model(self.teacher.model))
        copies = _copies(self.tapped.model, ours.model) | _copies(self.teacher.model, theirs.model)
        names = [f"distil.{i}" for i in range(len(chosen))]
        own = [ours.tap(copies[a], name) for (a, _), name in zip(chosen, names)]
        other = [theirs.tap(copies[b], name) for (_, b), name in zip(chosen, names)]
        batch = self._first()
        results = [
            ort_session(tapped.model, threads=self.options.threads).run(taps, batch.feeds)
            for tapped, taps in ((ours, own), (theirs, other))
        ]
        alike = [is_alike(np.asarray(a), np.asarray(b)) for a, b in zip(*results)]
        kept = [i for i, same in enumerate(alike) if same and len(results[0][i]) == len(batch.rows)]
        for i in kept:
            a, b = chosen[i]
            name = self.tapped.tap(a, names[i])
            yield Pair(name, a, self.teacher.tap(b, names[i]), RelativeError(), _INNER / len(kept))

    def _first(self) -> Batch:
        rows = next(iter(self.samples.groups.values()), self.samples.held)
        return self.samples.batches_of(rows[: self.options.batch_size], self.options.batch_size)[0]


def _copies(model: Model, copy: Model) -> dict[Any, Any]:
    pairs = zip(model.graph, copy.graph)
    return {v: w for node, other in pairs for v, w in zip(node.outputs, other.outputs)}


def _by_output(labels: Array | Mapping[str, Array] | None, student: Model) -> dict[str, Array]:
    if labels is None:
        return {}
    if isinstance(labels, Mapping):
        return {name: np.asarray(array) for name, array in labels.items()}
    first = next((p.name for p, v in zip(student.graph.ports, student.graph.outputs) if _is_float(v.type)), None)
    if first is None:
        raise OptionError("distil: the student has no float output that labels could be of")
    return {first: np.asarray(labels)}


def _is_float(type: object) -> bool:
    return isinstance(type, TensorType) and type.dtype.is_float


def _check_inputs(samples: Samples, teacher: Tapped | None) -> None:
    """ModelError where the teacher needs inputs that the student's samples do not have."""
    if teacher is None:
        return
    for value in teacher.model.graph.inputs:
        if value.default is None and value.name not in samples.feeds[0]:
            raise ModelError(f"distil: the teacher has an input {value.name!r} that the student has not")


def _bytes(model: Model) -> bytes:
    return bytes(to_proto(model).SerializeToString(deterministic=True))
