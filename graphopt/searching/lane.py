"""The timing lane: one candidate at a time beside the original, while no other work of the search runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import InputError
from ..ir import Model
from ..measure import Timing, kernel_times
from ..passes.quantize.place.cost_model import conversion_rates
from ..recommendation.workbench import Workbench
from .structure import names_of_nodes

CLEAR = 0.01
"""The standard error of a ratio, as a share, up to which it is clear: 95 % of such intervals are within 2 %, less than
the steps of a front. `Workbench.timings` bounds how often a ratio is measured."""
SECONDS = 0.4
"""Seconds of a first measurement, original and candidate each; a choice."""
PROFILED = 12
"""Runs of a profile, of which eight count; those of `graphopt.measure.profile_nodes`."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The time of a model as a share of the original's, the standard error of that share, the original's seconds."""

    latency: float
    error: float
    seconds: float


class Lane(Protocol):
    """What measures time. Another one takes its place where a table of times is given, as in tests."""

    def latency(self, model: Model) -> Measured | None:
        """The time of a model; None where no inputs are known to run it on."""
        ...

    def shares(self, model: Model, layers: Sequence[str]) -> dict[str, float]:
        """The share of a model's time that each layer takes, with what it was fused with."""
        ...

    def conversion(self) -> float:
        """Seconds to convert an element between float and codes."""
        ...


@dataclass(frozen=True, slots=True)
class MachineLane:
    """Measures on this machine, in the target's runtime."""

    bench: Workbench

    def latency(self, model: Model) -> Measured | None:
        """Interleaved with the original, by this thread's own time, again until the interval is clear.

        The ratio is that of lower quartiles: on two cores that 30 other processes wanted, it scattered by 0.6 % where
        the median of ratios pair by pair did by 4 %.
        """

        def is_clear(found: list[Timing]) -> bool:
            return found[1].error <= CLEAR

        turns = list(self.bench.timings({"candidate": model}, SECONDS, is_clear))
        if not turns:
            return None
        best = min(turns, key=lambda found: found[1].error)
        return Measured(best[1].low / best[0].low, best[1].error, best[0].low)

    def shares(self, model: Model, layers: Sequence[str]) -> dict[str, float]:
        """By onnxruntime's profile of the model as it runs it."""
        feeds = self.bench.feeds()
        if not feeds:
            return {}
        wanted = {*layers}
        times: Mapping[str, float] = {}
        for kernel in kernel_times([model], feeds[0], runs=PROFILED)[0]:
            own = names_of_nodes([] if kernel.node is None else [kernel.node]) & wanted
            found = own or names_of_nodes(kernel.nodes) & wanted
            name = min(found, key=layers.index) if found else ""
            times = {**times, name: times.get(name, 0.0) + kernel.seconds}
        total = sum(times.values())
        if not total:
            raise InputError("nothing of the model was seen running in onnxruntime's profile")
        return {name: seconds / total for name, seconds in times.items()}

    def conversion(self) -> float:
        """The mean of both directions."""
        return sum(conversion_rates()) / 2
