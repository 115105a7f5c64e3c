"""The timing lane: times one candidate at a time against the original, while no other work of the search runs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..compress.stages import session_maker
from ..errors import InputError
from ..ir import Constant, Model, Node, Value
from ..measure import KernelTime, Timing, compare_latency, kernel_times, own_clock
from ..passes.quantize.place.cost_model import conversion_rates
from ..recipe import Recipe
from ..recommendation.workbench import TIMED, Workbench
from .building import Builder
from .structure import branch_labels, names_of_nodes

CLEAR = 0.01
"""The relative standard error up to which a ratio is clear: its 95 % interval is within 2 %, less than the steps of a
front."""
SECONDS, TURNS, PATIENCE = 0.3, 3, 6.0
"""Seconds of a first measurement, original and candidate each; the most measurements until clear, each twice as long: 4
s on an idle machine; and the seconds after which no further one starts: a still wide interval is reported as it is.
Choices."""
LONG = 0.05
"""Seconds of a run above which timing uses one sample, not several: the fewest runs that estimate scatter take 1 s
then. A choice."""
PROFILED, MOST_PROFILED = 12, 100
"""Runs of a profile, of which two thirds count: as in `graphopt.measure.profile_nodes`, and more for short models,
whose operators take only a few of a profile's microsecond ticks."""
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast")
"""Conversions, which are attributed to the layer that they serve."""
STEERING = 8
"""The most elements of a constant that may hold a shape, axes, pads or limits; weights have more."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The time of a model as a share of the original's, the standard error of that share, the original's seconds per
    sample."""

    latency: float
    error: float
    seconds: float


class Lane(Protocol):
    """The interface of time measurement; tests substitute a table of times."""

    def latency(self, model: Model) -> Measured | None:
        """The time of a model; None where no inputs for it are known."""
        ...

    def shares(self, model: Model, layers: Sequence[str]) -> dict[str, float]:
        """Each layer's share of a model's time, with the nodes fused into it."""
        ...

    def conversion(self) -> float:
        """Seconds to convert an element between float and codes."""
        ...

    def placed(self, builder: Builder, recipe: Recipe) -> Mapping[str, str]:
        """The words of layers as placed by quantization's own guards, by times of this machine; {} where quantization
        fails, or times come from a table."""
        ...


@dataclass(frozen=True, slots=True)
class MachineLane:
    """Measures on this machine, in the target's runtime. known: clear times by `form_of` the model."""

    bench: Workbench
    known: dict[str, Measured] = field(default_factory=dict)

    def latency(self, model: Model) -> Measured | None:
        """Interleaved with the original, by this thread's CPU time, repeated until the interval is clear.

        The ratio is of lower quartiles: on two cores shared with 30 other processes, it scattered by 0.6 % where the
        median of pairwise ratios scattered by 4 %. Models that differ in weights and scales alone, such as careful
        rebuilds, share one clear measurement.
        """
        form = form_of(model)
        if form in self.known:
            return self.known[form]

        start, samples = time.monotonic(), 1 if self.bench.run_seconds > LONG else TIMED

        def is_clear(found: list[Timing]) -> bool:
            return found[1].low_error <= CLEAR or time.monotonic() - start > PATIENCE

        turns = list(self.bench.timings({"candidate": model}, SECONDS, is_clear, TURNS, samples))
        if not turns:
            return None
        best = min(turns, key=lambda found: found[1].low_error)
        measured = Measured(best[1].low / best[0].low, best[1].low_error, best[0].low / len(self.bench.feeds(samples)))
        if form is not None and measured.error <= CLEAR:
            self.known[form] = measured
        return measured

    def shares(self, model: Model, layers: Sequence[str]) -> dict[str, float]:
        """From onnxruntime's profile of its optimized model, less the profile's own overhead per entry.

        The time of layout conversions by onnxruntime counts for the layer whose result is converted, the time of type
        conversions for the layer that they serve.
        """
        feeds = self.bench.feeds()
        if not feeds:
            return {}
        run = {"model": session_maker(self.bench.target, 1)(model)}
        (alone,) = compare_latency(run, feeds[0], seconds=SECONDS / 2, clock=own_clock())
        runs = int(np.clip(SECONDS / 2 / alone.low, PROFILED, MOST_PROFILED))
        order, places = {name: place for place, name in enumerate(layers)}, branch_labels(model)
        kernels = kernel_times([model], feeds[0], runs=runs, nested=bool(places))[0]
        times: dict[str, float] = {}
        for kernel, seconds in zip(kernels, without_entries(kernels, alone.low)):
            near = [node for node in (kernel.node, kernel.reordered) if node is not None]
            found = layer_near(near, order.keys(), places) or layer_near(kernel.nodes, order.keys(), places)
            name = min(found, key=order.__getitem__) if found else ""
            times[name] = times.get(name, 0.0) + seconds
        total = sum(times.values())
        if not total:
            raise InputError("nothing of the model was seen running in onnxruntime's profile")
        return {name: seconds / total for name, seconds in times.items()}

    def conversion(self) -> float:
        """The mean of both directions."""
        return sum(conversion_rates()) / 2

    def placed(self, builder: Builder, recipe: Recipe) -> Mapping[str, str]:
        """The placement by the stage's own guards."""
        return builder.build(recipe).layers


def without_entries(kernels: Sequence[KernelTime], alone: float) -> list[float]:
    """The seconds of kernels less the profile's overhead per entry, so that their sum approaches `alone`, the time of a
    run without a profile.

    The excess is first taken from nodes with branches, whose time includes their branches' entries; then equally from
    all kernels, at most the least kernel's time (rapidocr-cls: 1.8 µs each, of 145 kernels that run 0.6 ms without a
    profile).
    """
    seconds = [kernel.seconds for kernel in kernels]
    excess, least = sum(seconds) - alone, min(seconds, default=0.0)
    for place, kernel in enumerate(kernels):
        if kernel.node is not None and kernel.node.subgraphs and excess > 0:
            less = min(excess, seconds[place] - least)
            seconds[place], excess = seconds[place] - less, excess - less
    entry = float(np.clip(excess / max(1, len(kernels)), 0.0, least))
    return [one - entry for one in seconds]


def layer_near(nodes: Iterable[Node], wanted: AbstractSet[str], places: Mapping[Node, str]) -> set[str]:
    """The wanted names of nodes; a conversion takes those of its operand's producer, or, for weights, of its reader."""
    found: set[str] = set()
    for node in nodes:
        made = _past_conversions(node, lambda one: [v.producer for v in one.inputs[:1] if v is not None])
        read = _past_conversions(node, lambda one: [use.node for value in one.outputs for use in value.uses])
        for near in (made, read):
            names = names_of_nodes([] if near is None else [near], places) & wanted
            if names:
                found |= names
                break
    return found


def _past_conversions(node: Node | None, following: Callable[[Node], Sequence[Node | None]]) -> Node | None:
    """The first node that is no conversion, starting at `node` and stepping along `following`."""
    while node is not None and node.op in CONVERSIONS:
        node = next(iter(following(node)), None)
    return node


def form_of(model: Model) -> str | None:
    """A digest of all that times depend on: operators, attributes, shapes, the flow of values, small constants that may
    control it, and which scales are equal, since runtimes drop conversions between equal ones; not weights. None for a
    model with branches or loops."""
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
