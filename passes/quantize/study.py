"""What is known about a model before it is decided what to quantize: units, ranges, grids, codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from ...calibration import BATCH, Extent, observe
from ...ir import Model, Node, TensorType, Value
from ...stages import Context
from .moments import gather
from .options import Quantize
from .plan import Plan, choose_grids
from .solve import BITS, Solved, pair_safety, solve
from .units import Units, find_units


@dataclass(frozen=True, slots=True)
class Study:
    """One model, studied.

    solved: codes of each linear operator; finer: the same at 8 bits where fewer were asked for, to fall back on.
    noise: estimated noise to signal that quantizing each linear operator adds to its result.
    """

    model: Model
    options: Quantize
    units: Units
    seen: dict[Value, Extent]
    samples: int
    solved: dict[Node, Solved]
    finer: dict[Node, Solved]
    plan: Plan
    feed: dict[str, Any]


def study(model: Model, options: Quantize, context: Context) -> Study:
    """Calibrate, choose grids, solve for the codes. `model` is not changed."""
    units = find_units(model, options)
    values = list(dict.fromkeys(v for u in units.found for v in (*u.inputs, *u.outputs)))
    counted = _Counter(context, options.samples)
    feeds = counted.feeds
    seen = observe(
        model, values, feeds(), options.calibrate_method, executor=context.executor, cache=options.cache,
        progress=lambda count: context.tell(f"calibrate: {count} samples", 0.0),
    )  # fmt: skip
    samples = max(counted.count, 1)
    grids = choose_grids(units.found, seen, options)
    usable = frozenset(u for u in units.found if all(v in grids for v in (*u.inputs, *u.outputs)))
    layers = [(u.inputs[0], u.linear) for u in units.found if u in usable and u.linear is not None]
    steps = {linear.node: grids[value].scale for value, linear in layers}
    safe = pair_safety(options, context.target)
    solved: dict[Node, Solved] = {}
    finer: dict[Node, Solved] = {}
    needs_data = options.rounding or options.correct_bias or BITS[options.weight_type] < 8
    gathered = gather(model, layers, feeds, context.seed) if needs_data else ((linear, None) for _, linear in layers)
    for count, (linear, moments) in enumerate(gathered):
        context.tell(f"round weights: layer {count + 1} of {len(layers)}", count / len(layers))
        step = steps[linear.node]
        solved[linear.node] = solve(linear, moments, options, safe, step)
        if BITS[options.weight_type] < 8:
            finer[linear.node] = solve(linear, moments, options, safe, step, bits=8)
    plan = Plan(model, usable, grids, {node: s.codes for node, s in solved.items()}, options)
    return Study(model, options, units, seen, samples, solved, finer, plan, timing_feed(context))


def with_finer(studied: Study, plan: Plan, nodes: Iterator[Node] | frozenset[Node]) -> Plan:
    """The plan with 8-bit codes for some layers."""
    codes = dict(plan.codes)
    codes.update({node: studied.finer[node].codes for node in nodes if node in studied.finer})
    return replace(plan, codes=codes)


class _Counter:
    """The calibration feeds, at most so many, counted as they pass."""

    def __init__(self, context: Context, limit: int | None) -> None:
        self.calibration, self.limit, self.count = context.calibration, limit, 0

    def feeds(self) -> Iterator[dict[str, Any]]:
        """Read from the start."""
        for count, feed in enumerate(islice(iter(self.calibration), self.limit), 1):
            self.count = max(self.count, count)
            yield feed


def timing_feed(context: Context) -> dict[str, Any]:
    """One sample to time with: a single row where samples are rows of an open batch."""
    feed = context.calibration.first(1)[0]
    ports = {v.name: v for v in context.quality.reference.graph.inputs}
    rows = {len(value) if getattr(value, "ndim", 0) else 0 for value in feed.values()}
    if rows == {BATCH} and all(_is_open(ports[name]) for name in feed):
        return {name: value[:1] for name, value in feed.items()}
    return feed


def _is_open(value: Value) -> bool:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    return bool(shape) and not isinstance(shape[0], int) if shape else False
