"""The timing lane: one candidate at a time beside the original, while no other work of the search runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import InputError
from ..ir import Constant, Model, Node, Value
from ..measure import Timing, kernel_times
from ..passes.quantize.place.cost_model import conversion_rates
from ..recipe import Recipe
from ..recommendation.workbench import Workbench
from .building import Builder
from .structure import branch_labels, names_of_nodes

CLEAR = 0.01
"""The standard error of a ratio, as a share, up to which it is clear: 95 % of such intervals are within 2 %, less than
the steps of a front."""
SECONDS, TURNS = 0.3, 3
"""Seconds of a first measurement, original and candidate each, and how often it is made, twice as long each time, until
it is clear: 4 s at most. Choices."""
PROFILED = 12
"""Runs of a profile, of which eight count; those of `graphopt.measure.profile_nodes`."""
STEERING = 8
"""Elements of a constant up to which its values may be a shape, axes, pads or limits; weights have more."""


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

    def placed(self, builder: Builder, recipe: Recipe) -> Mapping[str, str]:
        """The words that layers get where quantization places them itself, by times of this machine; {} where it does
        not, or times are no machine's."""
        ...


@dataclass(frozen=True, slots=True)
class MachineLane:
    """Measures on this machine, in the target's runtime. known: clear times by the form of models."""

    bench: Workbench
    known: dict[str, Measured] = field(default_factory=dict)

    def latency(self, model: Model) -> Measured | None:
        """Interleaved with the original, by this thread's own time, again until the interval is clear.

        The ratio is that of lower quartiles: on two cores that 30 other processes wanted, it scattered by 0.6 % where
        the median of ratios pair by pair did by 4 %. Models that differ in weights and scales alone, as those that are
        made again with all care do, share one clear measurement.
        """
        form = form_of(model)
        if form in self.known:
            return self.known[form]

        def is_clear(found: list[Timing]) -> bool:
            return found[1].low_error <= CLEAR

        turns = list(self.bench.timings({"candidate": model}, SECONDS, is_clear, TURNS))
        if not turns:
            return None
        best = min(turns, key=lambda found: found[1].low_error)
        measured = Measured(best[1].low / best[0].low, best[1].low_error, best[0].low)
        if form is not None and measured.error <= CLEAR:
            self.known[form] = measured
        return measured

    def shares(self, model: Model, layers: Sequence[str]) -> dict[str, float]:
        """By onnxruntime's profile of the model as it runs it."""
        feeds = self.bench.feeds()
        if not feeds:
            return {}
        wanted, places = {*layers}, branch_labels(model)
        times: Mapping[str, float] = {}
        for kernel in kernel_times([model], feeds[0], runs=PROFILED, nested=bool(places))[0]:
            own = names_of_nodes([] if kernel.node is None else [kernel.node], places) & wanted
            found = own or names_of_nodes(kernel.nodes, places) & wanted
            name = min(found, key=layers.index) if found else ""
            times = {**times, name: times.get(name, 0.0) + kernel.seconds}
        total = sum(times.values())
        if not total:
            raise InputError("nothing of the model was seen running in onnxruntime's profile")
        return {name: seconds / total for name, seconds in times.items()}

    def conversion(self) -> float:
        """The mean of both directions."""
        return sum(conversion_rates()) / 2

    def placed(self, builder: Builder, recipe: Recipe) -> Mapping[str, str]:
        """By the stage's own guards."""
        return builder.build(recipe).layers


def form_of(model: Model) -> str | None:
    """A digest of what times depend on: operators, attributes, shapes and the flow of values, constants that may steer
    it, and which scales are equal, since runtimes drop conversions between those; not weights. None for a model with
    branches or loops."""
    digest = hashlib.sha256()
    names = {value: f"i{k} {value.type}" for k, value in enumerate(model.graph.inputs)}
    scales: dict[bytes, int] = {}
    for number, node in enumerate(model.graph):
        if node.subgraphs:
            return None
        reads = [_read(value, node, names, scales) for value in node.inputs]
        attrs = [(key, _plain(value)) for key, value in sorted(node.attrs.items())]
        digest.update(f"{node.domain} {node.op} {reads} {attrs}\n".encode())
        names.update((value, f"n{number}.{value.index}") for value in node.outputs)
    digest.update(repr([names.get(value) for value in model.graph.outputs]).encode())
    return digest.hexdigest()


def _read(value: Value | None, node: Node, names: Mapping[Value, str], scales: dict[bytes, int]) -> str:
    if value is None or value.constant is None:
        return "" if value is None else names.get(value, "?")
    constant = value.constant
    text = f"{constant.dtype} {constant.shape}"
    if constant.size > STEERING:
        return text
    data = constant.array().tobytes()
    is_scale = node.op in ("QuantizeLinear", "DequantizeLinear")
    return f"{text} #{scales.setdefault(data, len(scales))}" if is_scale else f"{text} {data!r}"


def _plain(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, Constant) else repr(value)
