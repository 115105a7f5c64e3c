"""Loss functions of a training step: each maps a model's output and its target to a scalar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..arguments import check_fields
from ..errors import OptionError, did_you_mean
from ..ir import DType, TensorType
from .tensor import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""A loss: (output, target) to a scalar. Targets have the output's type unless the loss has a method `target_type`."""


def _wide(t: Tensor) -> Tensor:
    """Half precision widened to f32: otherwise the sum over a batch overflows or vanishes."""
    return t.cast(DType.FLOAT) if t.dtype in (DType.FLOAT16, DType.BFLOAT16) else t


def _mean(t: Tensor) -> Tensor:
    return t.mean() if t.type.rank != 0 else t


@dataclass(frozen=True, slots=True)
class MSE:
    """mean (y − t)² over all elements."""

    def __call__(self, y: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        d = _wide(y) - _wide(target)
        return _mean(d * d)


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """−mean log softmax(y)[t] over the rows; y are logits, t i64 classes in the shape of y without `axis`.

    Rows with a negative class, such as padding (-100 in torch), are ignored. axis: of the classes; 1 for images.
    """

    axis: int = -1

    def __post_init__(self) -> None:
        check_fields("cross_entropy", self)

    def target_type(self, output: TensorType) -> TensorType:
        """i64 classes, one a row."""
        if output.shape is None:
            return TensorType(DType.INT64, None)
        sizes = list(output.shape)
        if not -len(sizes) <= self.axis < len(sizes):
            raise OptionError(f"cross_entropy: an output {output} has no axis {self.axis} of classes")
        del sizes[self.axis]
        return TensorType(DType.INT64, tuple(sizes))

    def __call__(self, y: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        logs: Tensor = _wide(y).LogSoftmax(axis=self.axis)
        writer = y.writer
        chosen = target.Max(writer.constant(0, DType.INT64)).unsqueeze([self.axis])
        picked: Tensor = logs.GatherElements(chosen, axis=self.axis).squeeze([self.axis])
        counted: Tensor = target.less(0).Not().cast(logs.dtype)
        count: Tensor = counted.sum().Max(writer.constant(1, logs.dtype))
        return -((picked * counted).sum() / count)


@dataclass(frozen=True, slots=True)
class KL:
    """T² mean Σ softmax(t/T) (log softmax(t/T) − log softmax(y/T)) over the rows; y and t are logits, as of a teacher.

    temperature: T; T² keeps the size of gradients (Hinton, Vinyals and Dean 2015, arXiv 1503.02531). axis: that of the
    classes.
    """

    temperature: float = 1.0
    axis: int = -1

    def __post_init__(self) -> None:
        check_fields("kl", self)
        if not self.temperature > 0:
            raise OptionError(f"kl: the temperature {self.temperature} is not positive")

    def __call__(self, y: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        ours, theirs = (_wide(t) / self.temperature for t in (y, target))
        logs, wanted = ours.LogSoftmax(axis=self.axis), theirs.LogSoftmax(axis=self.axis)
        rows = (wanted.Exp() * (wanted - logs)).sum([self.axis])
        return _mean(rows) * self.temperature**2


LOSSES: dict[str, Loss] = {"mse": MSE(), "cross_entropy": CrossEntropy(), "kl": KL()}
"""Losses by their words for `loss=`."""


def look_up_loss(asked: str | Loss) -> Loss:
    """The loss of a word, or as given. OptionError for an unknown one."""
    if callable(asked):
        return asked
    if not isinstance(asked, str) or asked not in LOSSES:
        raise OptionError(f"loss {asked!r} is none of {', '.join(LOSSES)}{did_you_mean(str(asked), LOSSES)}")
    return LOSSES[asked]
