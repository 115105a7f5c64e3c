"""Pairs of student values and targets of the teacher or labels, each with its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import InputError, ModelError, OptionError
from ..gradient import KL, CrossEntropy, Tensor
from ..gradient.differentiate import is_float
from ..gradient.losses import LOSSES, Loss
from ..ir import Array, Graph, Model, Node, Port, TensorType, Value
from ..measure import ort_session
from ..measure.classes import NORMALISED, classifications
from .options import AUTO
from .running import run_session
from .samples import Samples

TEMPERATURE = 2.0
"""Temperature of KL between scores of classes (`python -m tests.bench.distillation --sweep`)."""
_TINY = 1e-30
"""Keeps the logarithm of a probability finite; the least normal f32 is 1.2e-38."""
MOST_INNER = 6
"""The most inner values to match, evenly spread: each costs a pass over its elements. A choice."""
_ALIKE = 0.5
"""Squared distance of inner values, as a share of the teacher's energy, from which the two are different quantities (a
rewrite moved a factor or an axis). A choice: pruned and refitted layers stay well below it."""


ANCHOR = 1.0
"""Loss weight of the start's results where they explain all labels, beside 1 for the labels: a choice. Of the Fashion
CNN without 50 % of its channels, 1 and 4 leave the same on the test images (512 labels, 800 steps)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A value of the student and its target.

    name: of the student's output with the value. student: the value. teacher: the name of the teacher's output with the
    target, "" for labels. loss: a function of both; weight: its factor in the sum. holds_scores: the value holds class
    scores, whose argmax is the predicted class.
    """

    name: str
    student: Value
    teacher: str
    loss: Loss
    weight: float = 1.0
    holds_scores: bool = False


@dataclass(frozen=True, slots=True)
class Weighted:
    """A loss times a factor."""

    loss: Loss
    factor: float

    def target_type(self, output: TensorType) -> TensorType:
        """That of the loss."""
        kind = getattr(self.loss, "target_type", None)
        found: TensorType = output if kind is None else kind(output)
        return found

    def __call__(self, y: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        found = self.loss(y, target)
        found = found if found.type.rank == 0 else found.sum()
        return found * self.factor


@dataclass(frozen=True, slots=True)
class Probabilities:
    """A loss of logits applied to probabilities: their logarithms are logits."""

    loss: Loss

    def target_type(self, output: TensorType) -> TensorType:
        """That of the loss."""
        kind = getattr(self.loss, "target_type", None)
        found: TensorType = output if kind is None else kind(output)
        return found

    def __call__(self, y: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        known = target if target.dtype is not y.dtype else (target + _TINY).Log()
        return self.loss((y + _TINY).Log(), known)


@dataclass(frozen=True, slots=True)
class RelativeError:
    """Σ (y − t)² / (Σ t² + ε) over all elements: squared error as a share of the target's energy."""

    epsilon: float = 1e-12

    def __call__(self, y: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        d = y - target
        squares, energy = d * d, target * target
        return squares.sum() / (energy.sum() + self.epsilon) if y.type.rank else squares / (energy + self.epsilon)


@dataclass(frozen=True, slots=True)
class Scores:
    """KL at a temperature plus the relative squared distance, of unnormalized class scores.

    The distance alone leaves a tenth less divergence than KL alone after 1,500 steps (Fashion CNN at half of its
    multiply-accumulates, 2,000 images apart); KL keeps thousands of unlikely classes from outweighing the likely ones.
    """

    temperature: float = TEMPERATURE

    def __call__(self, y: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        return KL(self.temperature)(y, target) + RelativeError()(y, target)


@dataclass(slots=True)
class Tapped:
    """A model that also returns inner values. taps: the names of these outputs by value."""

    model: Model
    taps: dict[Value, str] = field(default_factory=dict)

    def tap(self, value: Value, name: str) -> str:
        """Add `value` as an output; returns its name, the present one where already an output."""
        graph = self.model.graph
        known = {v: port.name for port, v in zip(graph.ports, graph.outputs)}
        if value not in known:
            graph.set_outputs([*graph.outputs, value], [*graph.ports, Port(name, value.type)])
            known[value] = name
        self.taps[value] = known[value]
        return known[value]

    def again(self, value: Value, name: str) -> Value:
        """A second output of a value, for another target."""
        graph = self.model.graph
        node = Node("Identity", [value], {}, [Value(value.type, name)])
        graph.append(node)
        graph.set_outputs([*graph.outputs, node.output], [*graph.ports, Port(name, value.type)])
        return node.output


def result_pairs(student: Tapped, teacher: Tapped, loss: str | Loss | Mapping[str, str | Loss]) -> list[Pair]:
    """The outputs of both models, paired by name, else by position. OptionError for a name that the student lacks."""
    results, targets = _results(student.model), _results(teacher.model)
    if isinstance(loss, Mapping):
        for name in loss:
            if name not in results:
                raise OptionError(f"distil: the student has no float output {name!r}; it has {', '.join(results)}")
    kinds = classifications(teacher.model)
    by_name = {port.name: kinds.get(i) for i, port in enumerate(teacher.model.graph.ports)}
    pairs: list[Pair] = []
    for place, (name, value) in enumerate(results.items()):
        asked = loss.get(name) if isinstance(loss, Mapping) else loss
        if asked is None:
            continue
        target = name if name in targets or len(results) != len(targets) else list(targets)[place]
        if target not in targets:
            raise ModelError(f"distil: the teacher has no output {name!r}; it has {', '.join(targets)}")
        if not _alike(value, targets[target]):
            raise ModelError(f"distil: {name!r} is {value.type} and the teacher's {target!r} {targets[target].type}")
        maker = by_name.get(target)
        pairs.append(Pair(name, value, target, _chosen(asked, maker), holds_scores=maker is not None))
    if not pairs:
        raise OptionError("distil: the student has no float output, or loss names none")
    return pairs


def _results(model: Model) -> dict[str, Value]:
    return {port.name: v for port, v in zip(model.graph.ports, model.graph.outputs) if is_float(v)}


def _chosen(asked: str | Loss, maker: str | None) -> Loss:
    """The loss of an output. maker: the operator that computes class scores there, None for no class scores."""
    if asked == "mse":
        return RelativeError()  # outputs of different sizes weigh equally
    if not isinstance(asked, str):
        return asked
    if asked == AUTO and maker is None:
        return RelativeError()
    if asked == AUTO and maker not in NORMALISED:
        return Scores()
    loss = KL(TEMPERATURE) if asked in (AUTO, "kl") else LOSSES[asked]
    return Probabilities(loss) if maker in NORMALISED and maker != "LogSoftmax" else loss


def label_pairs(student: Tapped, labels: Mapping[str, Array], loss: Mapping[str, str | Loss]) -> list[Pair]:
    """Results and their labels: cross entropy for whole numbers, squared distance else, unless `loss` has another."""
    results = _results(student.model)
    kinds = classifications(student.model)
    makers = {port.name: kinds.get(i) for i, port in enumerate(student.model.graph.ports)}
    pairs = []
    for name, array in labels.items():
        if name not in results:
            raise OptionError(f"distil: labels for {name!r}: the student's float outputs are {', '.join(results)}")
        _check_labels(name, array, results[name])
        found = loss.get(name, AUTO)
        if found in (AUTO, "kl"):
            found = CrossEntropy() if array.dtype.kind in "iu" else RelativeError()
            found = Probabilities(found) if makers[name] in NORMALISED and makers[name] != "LogSoftmax" else found
        else:
            found = _chosen(found, None)
        own = f"{name}.labelled"
        pairs.append(Pair(own, student.again(results[name], own), "", found, holds_scores=array.dtype.kind in "iu"))
    return pairs


def leaves_out_unknown(loss: Loss) -> bool:
    """Whether a loss ignores rows of a class below 0."""
    return isinstance(loss.loss if isinstance(loss, Probabilities) else loss, CrossEntropy)


def _check_labels(name: str, labels: Array, output: Value) -> None:
    """InputError for labels that do not fit the output or are not finite numbers."""
    if labels.dtype.kind not in "iubf":
        raise InputError(f"distil: labels of {name!r} are {labels.dtype}: give numbers")
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise InputError(f"distil: labels of {name!r} hold NaN or infinity")
        shape = getattr(output.type, "shape", None)
        if shape is not None and any(isinstance(n, int) and n != m for n, m in zip(shape[1:], labels.shape[1:])):
            raise InputError(f"distil: labels of {name!r} are {list(labels.shape)} and the output is {output.type}")
        return
    classes = (getattr(output.type, "shape", None) or (None,))[-1]
    if isinstance(classes, int) and labels.size and labels.max() >= classes:
        raise InputError(f"distil: a label of {name!r} is class {labels.max()}, and the output has {classes}")


def anchor_pairs(student: Tapped, start: Tapped, samples: Samples, size: int, threads: int) -> list[Pair]:
    """Pairs of the student's labelled outputs with the start's, weighted by how well the start explains the labels.

    A few hundred labels hold less information than the start's results. Li and Hoiem 2016, "Learning without
    Forgetting", arXiv 1606.09282, keep old results so; Li et al. 2018, arXiv 1802.01483, the old weights.
    """
    pairs = result_pairs(student, start, dict.fromkeys(samples.labels, AUTO))
    known = _skills(start, pairs, samples, size, threads)
    return [replace(pair, weight=ANCHOR * known[pair.name]) for pair in pairs if known[pair.name] > 0]


def _skills(start: Tapped, pairs: Sequence[Pair], samples: Samples, size: int, threads: int) -> Mapping[str, float]:
    """Per output: the start's `skill` on the training rows' labels."""
    names = [pair.name for pair in pairs]
    session = ort_session(start.model, threads=threads)
    rows = [row for group in samples.groups.values() for row in group]
    found: dict[str, list[tuple[Array, Array]]] = {name: [] for name in names}
    for batch in samples.batches_of(rows, size):
        labels = samples.labels_of(batch)
        for name, result in zip(names, run_session(session, names, batch.feeds, "the student's result")):
            found[name].append((np.asarray(result), labels[name]))
    return {name: skill(parts) for name, parts in found.items()}


def skill(parts: Sequence[tuple[Array, Array]]) -> float:
    """From 0, no better than a constant answer, to 1: for classes, Cohen's kappa against the most frequent class; for
    other numbers, the share of variance explained. parts: (results, labels) of batches."""
    labels = np.concatenate([known.reshape(-1) for _, known in parts])
    if labels.dtype.kind not in "iu":
        results = np.concatenate([result.reshape(-1) for result, _ in parts]).astype(np.float64)
        whole = labels.var(dtype=np.float64)
        fits = results.shape == labels.shape and whole > 0
        return float(np.clip(1 - np.square(results - labels).mean() / whole, 0, 1)) if fits else 0.0
    counted = labels >= 0
    decided = np.concatenate([result.argmax(-1).reshape(-1) for result, _ in parts])
    if not counted.any():
        return 0.0
    agreed, most = (decided == labels)[counted].mean(), np.bincount(labels[counted]).max() / counted.sum()
    return float(max(0.0, (agreed - most) / (1 - most))) if most < 1 else 0.0


def inner_candidates(student: Graph, teacher: Graph) -> list[tuple[Value, Value]]:
    """Corresponding inner values of both models, by name or provenance, of equal types; in order.

    A student's node corresponds to its origins, the last of which computed its output.
    """
    place = {node: i for i, node in enumerate(teacher)}
    by_origin = {origin: node for node in teacher for origin in node.origins}
    by_name = {v.name: v for node in teacher for v in node.outputs if v.name}
    results = {*student.outputs, *teacher.outputs}
    found: list[tuple[Value, Value]] = []
    for node in student:
        value = node.outputs[0]
        target = by_name.get(value.name) if value.name else None
        if target is None:
            makers = [by_origin[origin] for origin in node.origins if origin in by_origin]
            target = max(makers, key=place.__getitem__).outputs[0] if makers else None
        if target is None or value in results or target in results or not is_float(value) or value.is_unused:
            continue
        sizes = getattr(value.type, "shape", None)
        if sizes and len(sizes) > 1 and sizes == getattr(target.type, "shape", None) and _alike(value, target):
            found.append((value, target))
    return found


def spread(pairs: Sequence[tuple[Value, Value]], most: int = MOST_INNER) -> list[tuple[Value, Value]]:
    """At most `most` of the pairs, evenly spread, including the last."""
    if len(pairs) <= most:
        return list(pairs)
    return [pairs[i] for i in np.linspace(len(pairs) / most - 1, len(pairs) - 1, most).round().astype(int)]


def is_alike(ours: Array, theirs: Array) -> bool:
    """Whether an inner value approximates the teacher's."""
    if ours.shape != theirs.shape:
        return False
    distance = float(np.square(ours - theirs, dtype=np.float64).sum())
    energy = float(np.square(theirs, dtype=np.float64).sum())
    return np.isfinite(distance + energy) and energy > 0 and distance < _ALIKE * energy


def _alike(a: Value, b: Value) -> bool:
    """Equal ranks, and equal sizes where both are known."""
    if not (isinstance(a.type, TensorType) and isinstance(b.type, TensorType)):
        return False
    ours, theirs = a.type.shape, b.type.shape
    if ours is None or theirs is None:
        return True
    if len(ours) != len(theirs):
        return False
    return all(x == y for x, y in zip(ours, theirs) if isinstance(x, int) and isinstance(y, int))
