"""A calibrated model: its units, ranges, grids and codes, before units are placed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from ....calibration import METHODS, Extent, Shapes, observe, shapes_at
from ....compress.choices import bits_for, block_sizes
from ....compress.context import StageContext
from ....compress.layers.linear import Linear
from ....compress.layers.moments import InputMoments, fits_memory, gather
from ....ir import Model, Node, Value
from ....kernels.tensors.quantization import Quantization
from ....machine.spool import Spool
from ....measure import figures, macs_values
from ....onnx_io import is_large
from ....parallel import Content, ordered
from ..numerics.blocks import stored_bits
from ..numerics.solve import BITS, Solved, pair_safety, solve
from ..numerics.store import CodeStore
from ..options import Quantize
from .assignment import Assignment, choose_grids, narrow_grids
from .block_sizes import block_of, can_pack, tied_block, usual_block, wider_blocks
from .derivable_ranges import derivable, derive_ranges, forget_silent, non_negative_images
from .feeds import CountedFeeds, enough, timing_feed, with_texts_beside
from .finer import FinerCodes
from .shared import Shared, float_products, share_weights
from .units import Unit, Units, find_tables, find_units, layer_units

Grids = dict[Value, Quantization]


@dataclass(frozen=True, slots=True)
class CalibratedModel:
    """A model with all data needed to place its units on integers or float.

    extents: of activations over `samples` feeds. solved: codes of each linear operator; finer: fallback codes, of 8
    bits where fewer were requested, and in mode dynamic those read as floats. assignment: of all units. feed: the
    sample for timing. grids: of activations, by calibration method; the assignment uses the first method's.
    """

    model: Model
    options: Quantize
    units: Units
    extents: dict[Value, Extent]
    samples: int
    solved: dict[Node, Solved]
    finer: FinerCodes
    assignment: Assignment
    feed: dict[str, Any]
    grids: dict[str, Grids]

    @property
    def shapes(self) -> Shapes:
        """The shapes of values on `feed`; none for a large model."""
        return self.assignment.shapes


SLOW = "onnxruntime is slow at convolutions quantized while they run"
"""Why dynamic quantization leaves convolutions alone."""


ALONE = Shared()
"""For models in which no weight has several readers."""

MASKED = "a tensor that holds NaN, infinite or mask values: it stays float"
"""Why a tensor has no grid: clipped to codes, masked elements would regain weight."""


def calibrate_model(model: Model, options: Quantize, context: StageContext) -> CalibratedModel:
    """Calibrate, choose grids, solve for the codes. `model` is not changed. InputError for data that do not fit."""
    units = find_units(model, options, context.target)
    feeds = CountedFeeds(context, options.samples)
    extents: dict[Value, Extent] = {}
    grids: dict[str, Grids] = {}
    nearest: dict[Node, Solved] = {}
    if options.mode == "static":
        with ThreadPoolExecutor(1) as aside:  # onnxruntime releases the GIL while it opens and runs sessions
            rounded = aside.submit(_nearest, model, units.members, options, context)
            extents, grids = _observed(model, units.members, options, context, feeds)
            nearest = rounded.result()
        known, masked = next(iter(grids.values())), {v for v, extent in extents.items() if extent.masked}
        units = Units(units.members, (*units.refused, *_masked_parts(units, masked)))
        usable = [u for u in units.members if all(v in known for v in (*u.inputs, *u.outputs))]
    else:
        usable = layer_units(units.members, options.mode)
        slow = tuple((u.name, SLOW) for u in units.members if u.linear is not None and u not in usable)
        units = Units(tuple(usable), (*units.refused, *slow))
    tables = find_tables(model.graph, options)
    units = Units((*units.members, *tables), units.refused)
    usable += tables
    usable, shared = share_weights(usable, float_products(model.graph, usable))
    units = _with_shared(units, usable, shared)
    store = CodeStore(Spool() if figures(model).constant_bytes > SPOOLED else None)
    solved, finer = solve_layers(model, usable, grids, options, context, feeds, nearest, shared, store)
    codes = {node: s.codes for node, s in solved.items()}
    activations = next(iter(grids.values()), {})
    count, feed = max(feeds.count, 1), timing_feed(context)
    values = [*(v for u in usable for v in (*u.inputs, *u.outputs)), *macs_values(model)]
    is_dear = options.mode == "weights" and is_large(model)  # nothing is timed, and a run reads all weights
    shapes = {} if is_dear else shapes_at(model, values, feed)
    assignment = Assignment(
        model, frozenset(usable), activations, codes, options, target=context.target, shared=shared,
        narrow=narrow_grids(usable, extents, options), store=store, shapes=shapes,
    )  # fmt: skip
    return CalibratedModel(model, options, units, extents, count, solved, finer, assignment, feed, grids)


def _observed(
    model: Model, units: Sequence[Unit], options: Quantize, context: StageContext, feeds: CountedFeeds
) -> tuple[dict[Value, Extent], dict[str, Grids]]:
    """Extents of the units' activations, and grids by method of those without NaN, infinite or mask values."""
    values = list(dict.fromkeys(v for u in units for v in (*u.inputs, *u.outputs)))
    derived = derivable(units, options)
    extents = observe(
        model, [v for v in values if v not in derived], feeds, options.calibrate_method,
        peaks=non_negative_images(units), executor=options.executor or context.executor, cache=options.cache,
        progress=lambda count: context.tell(f"calibrate: {count} samples", 0.0),
    )  # fmt: skip
    derive_ranges(extents, derived)
    forget_silent(extents)
    fit = {value: extent for value, extent in extents.items() if not extent.masked}
    methods = METHODS if options.calibrate_method == "auto" else (options.calibrate_method,)
    return extents, {m: choose_grids(units, fit, replace(options, calibrate_method=m)) for m in methods}


def _with_shared(units: Units, usable: Sequence[Unit], shared: Shared) -> Units:
    """The units after sharing weights; tables whose head stays float are excluded."""
    replaced = {u.node: u for u in usable}
    floats = {u for u in units.members if u.node in shared.heads and u.node not in replaced}
    members = tuple(replaced.get(u.node, u) for u in units.members if u not in floats)
    return Units(members, (*units.refused, *((u.name, TIED) for u in units.members if u in floats)))


TIED = "the product that shares its weight stays float"
"""Why a table is not stored as codes: the file would hold it twice."""


def _masked_parts(units: Units, masked: Set[Value]) -> Iterator[tuple[str, str]]:
    """(name, reason) of each tensor without a grid, and of each layer that therefore stays float."""
    yield from ((value.name, MASKED) for value in sorted(masked, key=lambda v: v.name))
    for unit in units.layers:
        beside = next((v for v in (*unit.inputs, *unit.outputs) if v in masked), None)
        if beside is not None:
            yield unit.name, f"{beside.name} beside it holds NaN, infinite or mask values"


def solve_layers(
    model: Model, usable: list[Unit], grids: dict[str, Grids], options: Quantize, context: StageContext,
    feeds: CountedFeeds | None = None, nearest: Mapping[Node, Solved] = MappingProxyType({}), shared: Shared = ALONE,
    store: CodeStore | None = None,
) -> tuple[dict[Node, Solved], FinerCodes]:  # fmt: skip
    """Codes of every layer at the requested width, and fallback codes; `nearest`: codes already known.

    Layers that share a weight get the codes solved for the first of them.
    """
    feeds = feeds or CountedFeeds(context, options.samples)
    solved: dict[Node, Solved] = {}
    store = CodeStore() if store is None else store
    layers = [u for u in usable if u.linear is not None and u.node not in shared.codes_of]
    usual, tied = usual_block(options, context), dict.fromkeys(shared.heads.values(), tied_block(context))
    blocks = {**wider_blocks(layers, options, context), **block_sizes(model.graph, options.layers)}
    solver = _Solver(model, options, context.target, store, _chosen_bits(model, options), tied, usual, blocks)
    steps: dict[Node, float] = {}
    asked: list[Unit] = []

    def problems() -> Iterator[tuple[_Problem, Content]]:
        for count, (unit, moments) in enumerate(_with_moments(solver, layers, context, feeds)):
            context.tell(f"round weights: layer {count + 1} of {len(layers)}", count / len(layers))
            step = min((known[unit.inputs[0]].scale for known in grids.values() if unit.inputs), default=1.0)
            steps[unit.node] = step
            known = nearest.get(unit.node)
            if known is not None and known.codes.holds_bias(step):
                solved[unit.node] = known
                continue
            asked.append(unit)
            yield solver.problem(unit, moments, step, solver.bits(unit)), {}

    for number, found in enumerate(ordered(context.executor, solve, problems())):
        solved[asked[number].node] = solver.kept(asked[number], found)
    solved = {unit.node: solved[unit.node] for unit in layers}  # restores the order: known codes came first
    for unit in usable:
        first = shared.codes_of.get(unit.node)
        if first in solved:
            solved[unit.node] = _with_bias(solved[first], unit)
    units = {u.node: u for u in usable}

    def finer(node: Node) -> Solved:
        # to the nearest: at 8 bits rounding by moments gains too little for its time
        first = units[shared.codes_of.get(node, node)]
        return _with_bias(solver(first, None, steps[first.node], 8), units[node])

    if options.mode == "dynamic":
        stored = _Solver(model, replace(options, mode="weights"), context.target, store, solver.chosen, tied)
        products = [u.node for u in usable if not u.is_table or u.node in shared.heads]
        return solved, FinerCodes(lambda node: _stored(stored, units, shared, node), products)
    narrow = [node for node, found in solved.items() if found.codes.bits < 8 and node not in solver.chosen]
    return solved, FinerCodes(finer, narrow)


def _stored(solver: _Solver, units: Mapping[Node, Unit], shared: Shared, node: Node) -> Solved:
    """The codes of a product that reads its weight as floats: to the nearest, without the 16-bit limit on pairs."""
    solved = solver(units[shared.codes_of.get(node, node)], None, 1.0, 8)
    return _with_bias(replace(solved, codes=replace(solved.codes, is_stored=True)), units[node])


def _with_bias(solved: Solved, unit: Unit) -> Solved:
    """The codes of a layer for another layer `unit` that shares its weight, with the bias of `unit`."""
    if solved.codes.bias is unit.layer.bias:
        return solved
    return replace(solved, codes=replace(solved.codes, bias=unit.layer.bias))


_Problem = tuple[Linear, InputMoments | None, Quantize, bool, float, int, int | None, bool]
"""The arguments of `solve` for one layer."""


@dataclass(frozen=True, slots=True)
class _Solver:
    """Solves for the codes of one layer after the other. chosen: bits of layers that were given fewer by name. tied:
    heads whose weight is a table, too, with the inputs that share a scale in 8 bits where the caller says nothing of
    it; usual: of other layers. None for all. blocks: of layers that have their own."""

    model: Model
    options: Quantize
    target: str
    store: CodeStore
    chosen: Mapping[Node, int]
    tied: Mapping[Node, int | None] = field(default_factory=dict)
    usual: int | None = None
    blocks: Mapping[Node, int] = field(default_factory=dict)

    def __call__(self, unit: Unit, moments: InputMoments | None, step: float, bits: int) -> Solved:
        return self.kept(unit, solve(*self.problem(unit, moments, step, bits)))

    def problem(self, unit: Unit, moments: InputMoments | None, step: float, bits: int) -> _Problem:
        is_stored_in_blocks = unit.node.op != "Gather" and bits == self.bits(unit)
        usual = self.tied.get(unit.node, self.usual) if bits == 8 else self.usual
        size = self.blocks.get(unit.node) or self.options.block_size or usual
        block = block_of(unit.layer, self.options, self.target, size) if is_stored_in_blocks else None
        safe = unit.node.op != "Gather" and pair_safety(self.options, self.target)  # tables meet no integer products
        options = replace(self.options, executor=None, cache=None)
        return unit.layer.alone, moments, options, safe, step, bits, block, unit.node in self.tied

    def kept(self, unit: Unit, solved: Solved) -> Solved:
        """The solution with its codes in the store."""
        by_row = solved.codes.block is not None and self.target == "onnxruntime"  # its own product packs rows
        return replace(solved, codes=self.store.kept(solved.codes, unit.layer, by_row))

    def bits(self, unit: Unit) -> int:
        """The layer's bits: as requested; 8 where fewer cannot be stored packed, and for tables without a head.

        A tied table asked for in 3 bits gets the 4 that its codes occupy: errors of its rows harm most (llama.cpp's
        Q3_K keeps that tensor in more bits, too).
        """
        if unit.node in self.chosen:
            return self.chosen[unit.node]
        asked = self.options.weight_bits
        fits = self.options.mode == "static" or can_pack(self.model, unit.node.op, self.target, asked)
        bits = BITS[self.options.weight_type] if fits and unit.node.op != "Gather" else 8
        return stored_bits(bits) if unit.node in self.tied and self.options.mode == "weights" else bits

    def wants_moments(self, unit: Unit) -> bool:
        """Whether the layer is rounded by the moments of its inputs, where available."""
        options = self.options
        narrowest = min(BITS[options.weight_type], self.chosen.get(unit.node, 8))
        return bool(options.rounding) or options.correct_bias or narrowest < 8


def _chosen_bits(model: Model, options: Quantize) -> dict[Node, int]:
    """Bits of the layers with fewer than 8 by name, in mode static: other layers keep the usual width. In mode weights
    each width is a separate run."""
    if options.mode != "static":
        return {}
    return {node: bits for node, bits in bits_for(model.graph, options.layers, "static").items() if bits < 8}


def _nearest(model: Model, units: Sequence[Unit], options: Quantize, context: StageContext) -> dict[Node, Solved]:
    """Codes rounded to the nearest, without data, assuming that every bias fits; none for layers rounded by moments."""
    solver = _Solver(model, options, context.target, CodeStore(), _chosen_bits(model, options))
    layers = [u for u in units if u.linear is not None and not solver.wants_moments(u)]
    return {unit.node: solver(unit, None, math.inf, solver.bits(unit)) for unit in layers}


def _with_moments(
    solver: _Solver, layers: list[Unit], context: StageContext, feeds: CountedFeeds
) -> Iterator[tuple[Unit, InputMoments | None]]:
    """Each layer with the moments of its inputs, for rounding. None where data are made up, where the moments of very
    many inputs exceed memory, and where rounding by moments to 8 bits takes more time than it is worth."""
    options = solver.options
    shows = options.mode == "static" or context.calibration.shows_activations
    wanted = [u for u in layers if solver.wants_moments(u)] if shows and not _is_dear(layers, options) else []
    if not wanted:
        yield from ((unit, None) for unit in layers)
        return
    left = {unit.node: unit for unit in layers}
    given = [(u.inputs[0], u.layer) for u in wanted if u.inputs and fits_memory(u.layer)]
    data = partial(with_texts_beside, feeds, options, context)
    for linear, moments in gather(solver.model, given, data, context.seed, enough(options)):
        yield left.pop(linear.node), moments
    yield from ((unit, None) for unit in left.values())


def _is_dear(layers: Sequence[Unit], options: Quantize) -> bool:
    """Whether rounding stored 8-bit weights by moments takes more than `DEAR`; then they are rounded to the nearest."""
    if options.mode != "weights" or BITS[options.weight_type] < 8:
        return False
    return sum(float(u.layer.constant.size) * u.layer.depth for u in layers if fits_memory(u.layer)) > DEAR


DEAR = 2e10
"""Multiply-adds of one product of all weights with the covariances of their inputs: a second of one core, of which
rounding takes a dozen. MiniLM has 8e9, SmolLM2-135M 1e11 and KL 0.004 to the nearest."""
SPOOLED = 1 << 28
"""Bytes of weights, 256 MiB, above which codes are kept on disk: candidates hold several sets of them."""
