"""Options of distillation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..arguments import check_fields, values_of
from ..errors import OptionError, did_you_mean
from ..gradient.losses import LOSSES, Loss

AUTO = "auto"
"""The loss by kind of output: KL plus relative squared distance for class scores, the distance alone elsewhere."""
STEPS, BATCH = 10_000, 32
"""Default steps and rows of a step: errors fall until the end of a schedule, and this one takes the Fashion CNN less
than ten minutes of one core."""
PLENTY, MOST_TIMES = 0.5, 2.0
"""The share of the teacher's multiply-accumulates from which a student takes `STEPS`; below it steps grow in inverse
proportion, at most by `MOST_TIMES`: such a student lost more, and its steps take less time. A MobileNetV2-like net of
29 % loses 1.24 and 1.26 points after 10,000 steps, 1.16 and 1.16 after 14,500."""
HELD, LABELLED = 0.1, 0.25
"""Default shares of held-out samples, with a teacher and with labels alone, which say less per sample. A choice: 128 of
512."""
MIXING = PATCHES = 0.5
"""Default shares of mixed and of patched rows (`python -m tests.bench.distillation --sweep`)."""
_MOST = 1 << 16
"""A bound on batch size and threads, which catches swapped arguments; a choice."""


@dataclass(frozen=True, slots=True)
class Distil:
    """Options of `graphopt.distil` and of `recover=`.

    loss: "auto" (the squared distance as a share of the teacher's energy, and KL for scores of classes), "kl", "mse",
    "cross_entropy", a `graphopt.gradient` loss or a callable of two tensors, for every result or by result's name.
    steps: of Muon, and of AdamW for vectors; None for 10,000, and up to 20,000 for students of less than half of their
    teacher's multiply-accumulates. epochs: passes over the data in their place. learning_rate: the peak of warm-up and
    cosine decay; None tries a few for some steps each, and takes the one with the least held-out error.
    batch_size: rows of a step.
    holdout: share of the samples that no step sees, by which the result is judged; None for a tenth, and for a quarter
    without a teacher. inner: also match inner values that both models compute. mixing: the share of rows that are
    convex combinations of two samples (Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and
    consistent"), where all inputs are floats. patches: the share in which a rectangle is another sample's, where all
    are images [N, C, H, W] of grey levels or colours. shifts: images are moved by up to a fourteenth of their size.
    mirrors: half of the images are mirrored; None: where the teacher's results on mirrored samples nearly equal those
    on the samples. The teacher sees all of this, too; where classes are learnt a third of the rows stays whole, and
    these alone have labels; with other labels nothing is combined, and images move only if each is of a class. weights:
    names of those that are trained, None for all. checkpoint: a file from which a run that was killed resumes. threads:
    of onnxruntime, 0 for all cores.
    """

    loss: str | Loss | Mapping[str, str | Loss] = AUTO
    steps: int | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int = BATCH
    holdout: float | None = None
    inner: bool = False
    mixing: float = MIXING
    patches: float = PATCHES
    shifts: bool = True
    mirrors: bool | None = None
    weights: Sequence[str] | None = None
    checkpoint: str | os.PathLike[str] | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        for part in self.loss.values() if isinstance(self.loss, Mapping) else (self.loss,):
            known = (AUTO, *LOSSES)
            if isinstance(part, str) and part not in known:
                raise OptionError(f"distil: loss {part!r} is none of {', '.join(known)}{did_you_mean(part, known)}")
            if not isinstance(part, str) and not callable(part):
                raise OptionError(f"distil: a loss is a word or a function of two tensors, got {type(part).__name__}")
        for name in ("steps", "epochs", "batch_size"):
            value = getattr(self, name)
            if name != "batch_size" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"distil: {name} {value!r} is not a positive integer")
        if not isinstance(self.threads, int) or not 0 <= self.threads <= _MOST or self.batch_size > _MOST:
            raise OptionError(f"distil: threads={self.threads!r}, batch_size={self.batch_size!r}: not in [0, {_MOST}]")
        if self.learning_rate is not None and not _is_number(self.learning_rate, 0):
            raise OptionError(f"distil: learning_rate {self.learning_rate!r} is not positive")
        if self.holdout is not None and not (_is_number(self.holdout, 0) and self.holdout < 1):
            raise OptionError(f"distil: holdout {self.holdout!r} is not between 0 and 1")
        for name in ("mixing", "patches"):
            value = getattr(self, name)
            if value != 0 and not (_is_number(value, 0) and value <= 1):
                raise OptionError(f"distil: {name} {value!r} is not from 0 to 1")
        check_fields("distil", self)


def _is_number(value: Any, above: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and above < value < float("inf")


def check_distil(value: Any) -> Distil:
    """The options behind `recover=`: "distil", a dict of options, or the options. OptionError."""
    if isinstance(value, Distil):
        return value
    if value == "distil":
        return Distil()
    if isinstance(value, Mapping):
        known = [f.name for f in fields(Distil)]
        for name in value:
            if name not in known:
                raise OptionError(f"distil: no option is named {name}{did_you_mean(str(name), known)}")
        return Distil(**value)
    raise OptionError(f'recover: expected "distil" or graphopt.Distil(...), got {value!r}')


def from_words(words: Sequence[str]) -> Distil:
    """Options from words of a command line, KEY=VALUE each; commas part names of weights. OptionError."""
    return Distil(**values_of(Distil, "distil", words))
