"""Optimizers of a training step, as torch defines them: each writes the update of one weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

from ..arguments import check_fields
from ..errors import OptionError, did_you_mean
from ..ir import DType
from .tensor import Tensor


class Optimizer(Protocol):
    """The interface of an optimizer, which may keep tensors in the shape of each weight, zero at first.

    Weights below single precision, and their state, are updated in single precision.
    """

    @property
    def state(self) -> tuple[str, ...]:
        """The names of the tensors kept for each weight."""

    def scalars(self, rate: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """Scalars f64[] shared by all updates, from the learning rate f64[] and the step count f64[], first 1."""

    def update(
        self, w: Tensor, g: Tensor, state: Sequence[Tensor], scalars: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The weight and its state after a step, from its gradient g."""


def _within(name: str, value: float, low: float, below: float = float("inf")) -> None:
    if not low <= value < below:
        raise OptionError(f"{name}={value} is not in [{low}, {below})")


@dataclass(frozen=True, slots=True)
class SGD:
    """m ← μ m + (g + λ w); w ← w − η m, or with `nesterov` w − η (g + λ w + μ m).

    momentum: μ; weight_decay: λ.
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_fields("sgd", self)
        _within("momentum", self.momentum, 0, 1)
        _within("weight_decay", self.weight_decay, 0)
        if self.nesterov and not self.momentum:
            raise OptionError("nesterov needs a momentum")

    @property
    def state(self) -> tuple[str, ...]:
        """The momentum, if μ is not 0."""
        return ("momentum",) if self.momentum else ()

    def scalars(self, rate: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """(η,)"""
        return (rate,)

    def update(
        self, w: Tensor, g: Tensor, state: Sequence[Tensor], scalars: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step of one weight."""
        if self.weight_decay:
            g = g + w * self.weight_decay
        if not self.momentum:
            return w - g * scalars[0], ()
        m = state[0] * self.momentum + g
        return w - (g + m * self.momentum if self.nesterov else m) * scalars[0], (m,)


@dataclass(frozen=True, slots=True)
class Adam:
    """m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g²; w ← w − η/(1 − β₁ᵗ) m / (√v/√(1 − β₂ᵗ) + ε), g including λ w.

    Kingma and Ba 2015, arXiv 1412.6980. State: m as `momentum`, v as `square`. weight_decay: λ.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    state: ClassVar[tuple[str, ...]] = ("momentum", "square")
    decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields("adam", self)
        if len(self.betas) != 2:
            raise OptionError(f"adam: betas are two numbers, got {self.betas!r}")
        for name, beta in zip(("betas[0]", "betas[1]"), self.betas):
            _within(name, beta, 0, 1)
        _within("epsilon", self.epsilon, 0)
        _within("weight_decay", self.weight_decay, 0)

    def scalars(self, rate: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """(η c/(1 − β₁ᵗ), ε c, 1 − η λ), c = √(1 − β₂ᵗ): both bias corrections, computed once for all weights"""
        first, second = (1 - step.writer.constant(beta, DType.DOUBLE) ** step for beta in self.betas)
        correction = second.Sqrt()
        return rate * correction / first, correction * self.epsilon, 1 - rate * self.weight_decay

    def update(
        self, w: Tensor, g: Tensor, state: Sequence[Tensor], scalars: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step of one weight."""
        rate, epsilon, kept = scalars
        if self.weight_decay and self.decoupled:
            w = w * kept
        elif self.weight_decay:
            g = g + w * self.weight_decay
        first, second = self.betas
        m = state[0] + (g - state[0]) * (1 - first)
        v = state[1] * second + g * g * (1 - second)
        return w - (m * rate) / (v.Sqrt() + epsilon), (m, v)


@dataclass(frozen=True, slots=True)
class AdamW(Adam):
    """Adam whose decay is apart from the gradient: w ← (1 − η λ) w before the step of Adam.

    Loshchilov and Hutter 2019, arXiv 1711.05101.
    """

    weight_decay: float = 0.01
    decoupled: ClassVar[bool] = True


OPTIMIZERS: dict[str, Optimizer] = {"sgd": SGD(), "adam": Adam(), "adamw": AdamW()}
"""Optimizers by their words for `optimizer=`, with torch's defaults."""


def look_up_optimizer(asked: str | Optimizer) -> Optimizer:
    """The optimizer of a word, or as given. OptionError for an unknown one."""
    if callable(getattr(asked, "scalars", None)):
        return cast(Optimizer, asked)
    if not isinstance(asked, str) or asked not in OPTIMIZERS:
        close = did_you_mean(str(asked), OPTIMIZERS)
        raise OptionError(f"optimizer {asked!r} is none of {', '.join(OPTIMIZERS)}{close}")
    return OPTIMIZERS[asked]
