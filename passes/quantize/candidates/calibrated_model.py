"""What is known about a model before it is decided what to quantize: units, ranges, grids, codes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from types import MappingProxyType
from typing import Any

from ....calibration import BATCH, METHODS, Extent, Shapes, observe, shapes_at
from ....compress.context import StageContext
from ....compress.layers.linear import Linear
from ....compress.layers.moments import Moments, fits_memory, gather
from ....ir import Model, Node, TensorType, Value
from ....kernels.quantization import Quantization
from ....measure import macs_values
from ..numerics.solve import BITS, Solved, pair_safety, solve
from ..options import Quantize
from .assignment import Plan, choose_grids
from .derivable_ranges import derivable, derive, peaked
from .units import BLOCKED, Unit, Units, find_tables, find_units, layer_units

Grids = dict[Value, Quantization]


@dataclass(frozen=True, slots=True)
class Study:
    """One model, studied.

    solved: codes of each linear operator; finer: the same at 8 bits where fewer were asked for, to fall back on.
    shapes: of values on `feed`, the sample to time with. grids: of activations, by the method that found them; the plan
    has the first. alone: the relative error of the model's results with one unit alone quantized, where measured.
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
    shapes: Shapes
    grids: dict[str, Grids]
    alone: dict[Unit, float] = field(default_factory=dict)


SLOW = "onnxruntime is slow at convolutions quantized while they run"
"""Why dynamic quantization leaves convolutions alone."""


def study(model: Model, options: Quantize, context: StageContext) -> Study:
    """Calibrate, choose grids, solve for the codes. `model` is not changed."""
    units = find_units(model, options)
    counted = _Counter(context, options.samples)
    seen: dict[Value, Extent] = {}
    grids: dict[str, Grids] = {}
    nearest: dict[Node, Solved] = {}
    if options.mode == "static":
        with ThreadPoolExecutor(1) as aside:  # onnxruntime opens and runs sessions without holding the interpreter
            rounded = aside.submit(_nearest, model, units.found, options, context)
            seen, grids = _calibrated(model, units, options, context, counted)
            nearest = rounded.result()
        known = next(iter(grids.values()))
        usable = [u for u in units.found if all(v in known for v in (*u.inputs, *u.outputs))]
    else:
        usable = layer_units(units.found, options.mode)
        units.refused += [(u.name, SLOW) for u in units.found if u.linear is not None and u not in usable]
        if options.op_types_to_quantize is None or "Gather" in options.op_types_to_quantize:
            usable = [*usable, *(u for u in find_tables(model.graph) if u.name not in options.nodes_to_exclude)]
        units.found = usable
    solved, finer = solve_all(model, usable, grids, options, context, counted, nearest)
    codes = {node: s.codes for node, s in solved.items()}
    plan = Plan(model, frozenset(usable), next(iter(grids.values()), {}), codes, options, target=context.target)
    count, feed = max(counted.count, 1), timing_feed(context)
    values = [*(v for u in usable for v in (*u.inputs, *u.outputs)), *macs_values(model)]
    shapes = shapes_at(model, values, feed)
    return Study(model, options, units, seen, count, solved, finer, plan, feed, shapes, grids)


def _calibrated(
    model: Model, units: Units, options: Quantize, context: StageContext, counted: _Counter
) -> tuple[dict[Value, Extent], dict[str, Grids]]:
    values = list(dict.fromkeys(v for u in units.found for v in (*u.inputs, *u.outputs)))
    derived = derivable(units.found, options)
    seen = observe(
        model, [v for v in values if v not in derived], counted, options.calibrate_method,
        peaks=peaked(units.found), executor=options.executor or context.executor, cache=options.cache,
        progress=lambda count: context.tell(f"calibrate: {count} samples", 0.0),
    )  # fmt: skip
    derive(seen, derived)
    methods = METHODS if options.calibrate_method == "auto" else (options.calibrate_method,)
    return seen, {m: choose_grids(units.found, seen, replace(options, calibrate_method=m)) for m in methods}


def solve_all(
    model: Model, usable: list[Unit], grids: dict[str, Grids], options: Quantize, context: StageContext,
    counted: _Counter | None = None, nearest: Mapping[Node, Solved] = MappingProxyType({}),
) -> tuple[dict[Node, Solved], dict[Node, Solved]]:  # fmt: skip
    """Codes of every layer at the width asked for, and at 8 bits where that is less; `nearest` are known already."""
    counted = counted or _Counter(context, options.samples)
    solved: dict[Node, Solved] = {}
    finer: dict[Node, Solved] = {}
    layers = [u for u in usable if u.linear is not None]
    solver = _Solver(model, options, pair_safety(options, context.target))
    for count, (unit, moments) in enumerate(_with_moments(model, layers, options, context, counted)):
        context.tell(f"round weights: layer {count + 1} of {len(layers)}", count / len(layers))
        step = min((known[unit.inputs[0]].scale for known in grids.values()), default=1.0)
        known = nearest.get(unit.node)
        if known is not None and known.codes.holds_bias(step):
            solved[unit.node] = known
            continue
        bits = solver.bits(unit)
        solved[unit.node] = solver(unit, moments, step, bits)
        if bits < 8:
            finer[unit.node] = solver(unit, moments, step, 8)
    return solved, finer


@dataclass(frozen=True, slots=True)
class _Solver:
    """Solves for the codes of one layer after the other."""

    model: Model
    options: Quantize
    safe: bool

    def __call__(self, unit: Unit, moments: Moments | None, step: float, bits: int) -> Solved:
        linear = unit.linear
        assert linear is not None
        is_stored_in_blocks = unit.node.op != "Gather" and bits == self.bits(unit)
        block = _block(self.model, linear, self.options) if is_stored_in_blocks else None
        return solve(linear, moments, self.options, self.safe, step, bits, block)

    def bits(self, unit: Unit) -> int:
        """The width asked for; tables have 8."""
        return 8 if unit.node.op == "Gather" else BITS[self.options.weight_type]


def _nearest(model: Model, units: list[Unit], options: Quantize, context: StageContext) -> dict[Node, Solved]:
    """Codes that need no data, of weights that are rounded to the nearest; as if every bias fitted."""
    if _wants_moments(options):
        return {}
    solver = _Solver(model, options, pair_safety(options, context.target))
    return {unit.node: solver(unit, None, math.inf, solver.bits(unit)) for unit in units if unit.linear is not None}


def _wants_moments(options: Quantize) -> bool:
    return options.rounding or options.correct_bias or BITS[options.weight_type] < 8


def _with_moments(
    model: Model, layers: list[Unit], options: Quantize, context: StageContext, counted: _Counter
) -> Iterator[tuple[Unit, Moments | None]]:
    """Each layer with what its rounding needs to know of the data: made-up data are no ground to round by, and what a
    layer of very many inputs needs does not fit in memory."""
    if not _wants_moments(options) or (context.calibration.note and options.mode != "static"):
        yield from ((unit, None) for unit in layers)
        return
    by_node = {unit.node: unit for unit in layers}
    given = [(u.inputs[0], u.linear) for u in layers if u.inputs and u.linear is not None and fits_memory(u.linear)]
    for linear, moments in gather(model, given, counted.__iter__, context.seed):
        yield by_node[linear.node], moments
    told = {linear.node for _, linear in given}
    yield from ((unit, None) for unit in layers if unit.node not in told)


def _block(model: Model, linear: Linear, options: Quantize) -> int | None:
    """Inputs that share a scale: only weights alone are stored in blocks, where the operator set has that."""
    size = options.block_size or (32 if options.weight_type == "int4" else None)
    fits = linear.node.op != "Conv" and size is not None and linear.depth % size == 0
    return size if options.mode == "weights" and model.opset >= BLOCKED and fits else None


def with_finer(studied: Study, plan: Plan, nodes: Iterator[Node] | frozenset[Node]) -> Plan:
    """The plan with 8-bit codes for some layers."""
    codes = dict(plan.codes)
    codes.update({node: studied.finer[node].codes for node in nodes if node in studied.finer})
    return replace(plan, codes=codes)


class _Counter:
    """The calibration feeds, at most so many, counted as they pass."""

    def __init__(self, context: StageContext, limit: int | None) -> None:
        self.calibration, self.limit, self.count = context.calibration, limit, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read from the start."""
        for count, feed in enumerate(islice(iter(self.calibration), self.limit), 1):
            self.count = max(self.count, count)
            yield feed


def timing_feed(context: StageContext) -> dict[str, Any]:
    """One sample to time with: a single row where samples are several rows of an open batch."""
    feed = context.calibration.first(1)[0]
    ports = {v.name: v for v in context.quality.reference.graph.inputs}
    rows = {len(value) if getattr(value, "ndim", 0) else 0 for value in feed.values()}
    if len(rows) == 1 and 1 < rows.copy().pop() <= BATCH and all(_is_open(ports[name]) for name in feed):
        return {name: value[:1] for name, value in feed.items()}
    return feed


def _is_open(value: Value) -> bool:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    return bool(shape) and not isinstance(shape[0], int) if shape else False
