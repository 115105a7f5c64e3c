"""Options of pruning, in the field's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ...arguments import check_fields, is_whole, values_of
from ...distillation.options import Distil, check_distil
from ...errors import OptionError
from ...ir import Array

Importance = Callable[[Array], Array]
"""From a layer's weight, its outputs first, [channels, ...], to one number a channel; larger is more important."""

IMPORTANCES = (
    "auto", "l1", "l2", "bn_scale", "activation", "reconstruction", "hessian", "taylor", "fisher", "random",
)  # fmt: skip
GRADIENTS = ("taylor", "fisher")
"""Importances that are measured by backward passes on calibration data."""
MEASURED = ("activation", "reconstruction", "hessian", *GRADIENTS)
"""Importances that are measured on calibration data."""
COSTS = ("macs", "parameters", "speedup")
"""The quantities of a target; a speedup is computed from each node's seconds."""
RIDGE = 1e-3
"""Default ridge of a refit towards the old weights, as a share of the mean energy of an input. A refit also tries
larger multiples; `python -m tests.bench.prune_fashion` shows the accuracy."""


@dataclass(frozen=True, slots=True)
class Prune:
    """Options of `prune=`.

    ratio: share of the channels that are removed; in its place a target: macs or parameters (the share of the
    multiply-accumulates or of the parameters that may stay), or speedup (how many times as fast on this machine, in the
    target's runtime; what is removed then depends on the machine). Channels then go by their loss for the cost that
    they save. ratios: other shares for the layers with these names (a node's
    name), which then are pruned by themselves. keep: how many channels stay of the layers with these names (a number,
    or one for each step), whatever else is asked; where every group is named, nothing is measured to decide how much
    goes. importance: how channels are scored: "auto" (the measures that suit the
    ranking are tried on calibration data, as far as that is affordable, and the one is taken that leaves the least
    error on some samples; "l2" without data), "l1", "l2" (size of a channel's weights), "bn_scale" (of its
    BatchNormalization), "activation" (its energy), "reconstruction" (the error in the layers that read it when it is
    removed), "hessian" (the same after these have adapted), "taylor" and "fisher" (what its removal does to the model's
    results, to first order, by backward passes without labels: to their energy, to themselves), "random", or a callable
    from a layer's weight [channels, ...] to scores. round_to: widths stay multiples of it where they can.
    global_ranking: channels of all layers compete, instead of each layer losing the same share. ignored_layers: names
    of layers whose channels stay.
    iterative_steps: remove in this many steps, refitting after each, or in one where that leaves less error; None
    leaves it to importance "auto". exchange: layers then trade channels with each other, within the ratio or target, as
    long as results on samples apart come nearer to the original's, at the price of at most so many prunings; None for a
    share of the training that `recover` asks for, and for none without. recover:
    refit the remaining weights on calibration data, without training; a `graphopt.Distil`, or "distil", trains them
    after that. ridge: how strongly the refit holds on to the old weights. least: the share of a group's channels that
    always stays. statistics: also remove channels whose mean or variance is taken by a normalisation, which is then
    taken over the others. select: a layer none of whose inputs can be removed, because other nodes need them, reads
    only some of them, picked by a Gather. speed: hand the model back when it clearly did not become faster on this
    machine (the result then depends on the machine, not on the model and options alone). evaluations: the budget of
    metric evaluations.
    """

    ratio: float = 0.5
    macs: float | None = None
    parameters: float | None = None
    speedup: float | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    keep: Mapping[str, int | Sequence[int]] = field(default_factory=dict)
    importance: str | Importance = "auto"
    round_to: int = 8
    global_ranking: bool = True
    ignored_layers: tuple[str, ...] = ()
    iterative_steps: int | None = None
    exchange: int | None = None
    recover: bool | Distil = True
    ridge: float = RIDGE
    least: float = 0.1
    statistics: bool = False
    select: bool = False
    speed: bool = False
    evaluations: int = 16

    def __post_init__(self) -> None:
        if not isinstance(self.recover, bool):
            object.__setattr__(self, "recover", check_distil(self.recover))
        check_fields("prune", self)
        object.__setattr__(self, "ignored_layers", tuple(self.ignored_layers))
        for name, ratio in (("ratio", self.ratio), *self.ratios.items()):
            if not isinstance(ratio, (int, float)) or not 0 <= ratio < 1:
                raise OptionError(f"prune: {name} {ratio!r} is not at least 0 and below 1")
        targets = {name: getattr(self, name) for name in COSTS if getattr(self, name) is not None}
        if len(targets) > 1:
            raise OptionError(f"prune: {' and '.join(targets)} are two targets: give one")
        for name, value in targets.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if name == "speedup" and not (is_number and value > 1):
                raise OptionError(f"prune: speedup {value!r} is not above 1")
            if name != "speedup" and not (is_number and 0 < value < 1):
                raise OptionError(f"prune: {name} {value!r} is not a share between 0 and 1, of what may stay")
        for name, count in self.keep.items():
            if not _is_count(count) and not (isinstance(count, (list, tuple)) and count and all(map(_is_count, count))):
                raise OptionError(f"prune: keep: {name}: {count!r} is not a number of channels from 1 on")
        if not callable(self.importance) and self.importance not in IMPORTANCES:
            raise OptionError(f"prune: importance {self.importance!r} is not one of {', '.join(IMPORTANCES)}")
        for name in ("round_to", "iterative_steps"):
            if name == "iterative_steps" and self.iterative_steps is None:
                continue
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise OptionError(f"prune: {name} {getattr(self, name)!r} is not a positive integer")
        if self.exchange is not None and (not isinstance(self.exchange, int) or self.exchange < 0):
            raise OptionError(f"prune: exchange {self.exchange!r} is not a number of prunings from 0 on")
        if not 0 <= self.least <= 1 or self.ridge < 0:
            raise OptionError("prune: least is a share from 0 to 1, and ridge is not negative")

    @property
    def target(self) -> tuple[str, float] | None:
        """The cost to reduce, and the share of it that may stay; None where `ratio` decides."""
        for name in COSTS:
            value = getattr(self, name)
            if value is not None:
                return name, (1.0 / value if name == "speedup" else value)
        return None


def _is_count(value: object) -> bool:
    return is_whole(value) and value >= 1  # type: ignore[operator]


def check_prune(value: Any) -> Prune:
    """The options behind `prune=`: a ratio, a dict of options, or the options. OptionError."""
    if isinstance(value, Prune):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Prune(ratio=float(value))
    if isinstance(value, dict):
        unknown = set(value) - {f.name for f in fields(Prune)}
        if unknown:
            raise OptionError(f"prune: no option is named {', '.join(sorted(unknown))}")
        return Prune(**value)
    raise OptionError(f"prune: expected a ratio or graphopt.Prune(...), got {type(value).__name__}")


def from_words(ratio: float | None, words: Sequence[str]) -> Prune:
    """Options from a ratio (None for the usual) and words of a command line: KEY=VALUE, or KEY alone for true; commas
    part lists. OptionError.
    """
    given = values_of(Prune, "prune", words, ("ratio", "ratios", "keep"))
    return Prune(**given) if ratio is None else Prune(ratio=ratio, **given)
