"""Two streams of activations over the calibration data: of the float model, and of the model with quantized layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ....compress.frontier import Frontier
from ....compress.layers.linear import Linear
from ....compress.layers.regression import NormalEquations
from ....equivalence.feeds import Feeds
from ....ir import Array, Constant, Node, Value
from ..candidates.assignment import Assignment
from ..candidates.units import Unit
from ..emit.qdq import simulated
from ..numerics.grids import Codes, NarrowGrid
from ..numerics.per_channel import fold_channel_scales

ROWS_PER_UNKNOWN, MOST_ROWS, LEAST_ROWS = 40, 40_000, 20_000
"""Rows for refitting a layer: per weight of an output, at most and at least; between overfitting and time. With 6 and
4,000, as in pruning, the nets of `python -m tests.bench.below8` lose 0.1 to 0.2 dB more at W4A4."""
ELEMENTS = 1 << 25
"""Elements of a layer's rows in all groups above which fewer than `LEAST_ROWS` suffice: 128 MB, a bound on time. A
depthwise layer of 240 channels with 25 weights each then has 5,600 rows, 220 for each weight."""
FOLDS = 4
"""Every fourth sample, or every fourth row of fewer than `FEW` samples, is held out of a layer's fit to judge it."""
FEW = 8
"""Samples below which rows are held out in place of samples."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Sums over rows of a layer's quantized inputs and float results: rows for the fit, and held-out rows."""

    train: NormalEquations
    held_out: NormalEquations

    @property
    def all(self) -> NormalEquations:
        """The sums over both."""
        return self.train.joined(self.held_out)


class Streams:
    """Activations of the float model, and of a copy with quantized activations whose layers are replaced one by one."""

    def __init__(self, assignment: Assignment, feeds: Sequence[Feeds], seed: int) -> None:
        self.assignment, self.seed = assignment, seed
        self.clone = simulated(assignment)
        self.graph = self.clone.model.graph
        self.floats = Frontier(assignment.model, feeds)
        self.quantized = Frontier(self.clone.model, feeds)
        self.count = len(feeds)

    def node(self, unit: Unit) -> Node:
        """The copy of a unit's node."""
        return self.clone.nodes[unit.node]

    def linear(self, unit: Unit) -> Linear:
        """The layer as a map between adjacent codes: from x' to y' where these have scales a channel."""
        channels = self.assignment.channels
        return fold_channel_scales(unit.layer, channels.get(unit.inputs[0]), channels.get(unit.output))

    def advance(self, unit: Unit) -> None:
        """Run both streams up to a layer."""
        self.floats.advance(unit.node)
        self.quantized.advance(self.node(unit))

    def narrow_input(self, unit: Unit) -> tuple[Node, Node] | None:
        """The QuantizeLinear and DequantizeLinear that round a layer's input to fewer than 8 bits; None without any."""
        if unit.inputs[0] not in self.assignment.narrow:
            return None
        read = self.node(unit).inputs[0]
        last = None if read is None else read.producer
        assert last is not None and last.op == "DequantizeLinear"
        first = last
        while first.op != "QuantizeLinear":
            source = first.inputs[0]
            assert source is not None and source.producer is not None
            first = source.producer
        return first, last

    def set_scale(self, unit: Unit, grid: NarrowGrid) -> None:
        """Round a layer's input to another grid from now on."""
        self.assignment = replace(self.assignment, narrow={**self.assignment.narrow, unit.inputs[0]: grid})
        nodes = self.narrow_input(unit)
        assert nodes is not None
        kind = np.int8 if grid.signed else np.uint8
        for node in nodes:
            scale, zero = (
                Value(constant=Constant.of(np.asarray(a))) for a in (np.float32(grid.scale), kind(grid.zero))
            )
            self.graph.set_inputs(node, (node.inputs[0], scale, zero))

    def set_codes(self, unit: Unit, codes: Codes) -> None:
        """Give a layer other codes from now on."""
        self.assignment = replace(self.assignment, codes={**self.assignment.codes, unit.node: codes})
        copy, linear = self.node(unit), unit.layer
        whole = linear.stored((codes.rows * codes.scale).astype(np.float32))
        name = "" if copy.inputs[1] is None else copy.inputs[1].name
        self.graph.set_input(copy, 1, Value(constant=Constant.of(whole), name=name))
        if codes.bias is None or not linear.takes_bias:
            return
        bias = Value(constant=Constant.of(self.assignment.rounded_bias(unit)), name=f"{name}_bias")
        if linear.addition is not None:
            node, slot = linear.addition
            self.graph.set_input(self.clone.nodes[node], slot, bias)
        else:
            self.graph.set_inputs(copy, (*copy.inputs[:2], bias))

    def rows(self, unit: Unit) -> Rows:
        """The rows of a layer that both streams have reached."""
        linear, copy = self.linear(unit), self.node(unit)
        plain = replace(linear, rescaled=None)
        value = copy.inputs[0]
        assert value is not None
        each = -(-_wanted(linear) // max(self.count, 1))
        sums = [NormalEquations(linear.groups, linear.depth, linear.channels) for _ in range(2)]
        weight, bias = linear.rows().astype(np.float32), _bias(linear)
        for number, (x, q) in enumerate(zip(self.floats.values(unit.inputs[0]), self.quantized.values(value))):
            given, seen = (
                layer.patches(array, each, np.random.default_rng((self.seed, number)))
                for layer, array in ((linear, x), (plain, q))
            )
            y = np.matmul(given, weight.transpose(0, 2, 1)) + bias[:, None]
            rows, results = seen.transpose(1, 0, 2), y.transpose(1, 0, 2).reshape(y.shape[1], -1)
            finite = np.isfinite(rows).all(axis=(1, 2)) & np.isfinite(results).all(axis=1)
            for sum_, kept in zip(sums, self._parts(number, len(rows))):
                sum_.add(rows[kept & finite], results[kept & finite])
        return Rows(*sums)

    def _parts(self, number: int, count: int) -> Iterator[Array]:
        """The rows of a sample to fit on, and those to hold out."""
        if self.count < FEW:
            held = np.arange(count) % FOLDS == FOLDS - 1
        else:
            held = np.full(count, number % FOLDS == FOLDS - 1)
        yield ~held
        yield held


def _wanted(linear: Linear) -> int:
    """Rows that a layer is refitted on."""
    least = min(LEAST_ROWS, ELEMENTS // (linear.groups * linear.depth))
    return min(MOST_ROWS, max(least, ROWS_PER_UNKNOWN * linear.depth))


def _bias(linear: Linear) -> Array:
    """The bias, [G, N]; of a product whose bias is an Add behind it, too."""
    bias = np.zeros(linear.channels, np.float32) if linear.bias is None else linear.bias
    return np.asarray(bias, np.float32).reshape(linear.groups, -1)


def layers_of(assignment: Assignment) -> list[Unit]:
    """The layers on integers in execution order, without layers whose weights have other readers."""
    shared = assignment.shared
    tied = {*shared.codes_of, *shared.codes_of.values(), *shared.heads, *shared.heads.values()}
    order = assignment.order
    units: Iterable[Unit] = (u for u in assignment.units if u.linear is not None and u.inputs and u.node not in tied)
    return sorted(units, key=order.__getitem__)
