"""Learn rounding and ranges block by block, so that results on quantized inputs approach the float model's.

Trained are the weights in units of their codes (rounded straight through), their scales, biases, and the scales of
activations of fewer than 8 bits (LSQ, Esser et al. 2020), by Adam on the block's squared error, from the closed form on
(Li et al. 2021, BRECQ; Chen et al. 2024, EfficientQAT). Inputs mix the quantized and the float stream, element by
element (Wei et al. 2022, QDrop). One training step is an ONNX model that onnxruntime runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ....compress.context import StageContext
from ....compress.frontier import Mark
from ....equivalence.feeds import Feeds
from ....errors import Declined, InputError, ModelError
from ....gradient import Adam, Tensor, Trainer, Writer
from ....ir import Array, Constant, Graph, Model, Node, Port, Value, captures, clone_node
from ..candidates.assignment import Assignment
from ..candidates.units import Unit
from ..numerics.grids import Codes, worst_pair
from .blocks import MOST, Block, blocks_of
from .closed_form import reach, refit_layer, with_output_grids
from .streams import FOLDS, Streams, layers_of

STEPS = 200
"""Steps of each block. `python -m tests.bench.below8 --learned` shows the accuracy."""
RATE = 0.001
"""Adam's initial rate for weights in units of their codes; it decays to 0 along a cosine."""
SCALES, BIASES = 1.0, 0.3
"""Rates for the logarithm of a scale, and for a bias in units of its row's norm, relative to `RATE`: tuned on the
Fashion CNN at W4A4, where ten times the rate overfits. `python -m tests.bench.below8 --learned`."""


def learn(assignment: Assignment, context: StageContext, feeds: Sequence[Feeds]) -> Assignment:
    """The assignment with layers refitted, then trained block by block where the error on held-out samples falls."""
    assignment, chosen = with_output_grids(assignment, context, feeds)
    streams = Streams(assignment, feeds, context.seed)
    layers = layers_of(assignment)
    count = 0
    for block in blocks_of(streams.floats, layers):
        count += len(block.layers)
        context.tell(f"learn rounding: layer {count} of {len(layers)}", count / len(layers))
        learn_block(streams, block, chosen)
    for unit in layers[count:]:
        reach(streams, unit, chosen)
        streams.set_codes(unit, refit_layer(streams, unit))
    return streams.assignment


def learn_block(streams: Streams, block: Block, chosen: set[Value]) -> None:
    """Refit the layers of a block that both streams have reached, train them, and run both streams through it."""
    marks = streams.floats.mark(), streams.quantized.mark()
    for unit in block.layers:
        reach(streams, unit, chosen)
        streams.set_codes(unit, refit_layer(streams, unit))
    before, error = streams.assignment, _run(streams, block)
    if len(block.layers) > MOST or streams.count < FOLDS:
        return
    closed, targets = streams.quantized.mark(), list(streams.floats.values(block.end))
    try:
        found = Learner(streams, block, marks[1].at).run(marks, targets)
    except (Declined, ModelError, InputError):  # a missing gradient, or a non-finite loss
        return
    streams.quantized.rewind(marks[1])
    _set(streams, block, found)
    if _run(streams, block) >= error:
        _set(streams, block, before)
        streams.quantized.rewind(closed)


def _set(streams: Streams, block: Block, found: Assignment) -> None:
    for unit in block.layers:
        if unit.inputs[0] in found.narrow:
            streams.set_scale(unit, found.narrow[unit.inputs[0]])
        streams.set_codes(unit, found.codes[unit.node])


def _run(streams: Streams, block: Block) -> float:
    """Run both streams through a block; returns its squared error on held-out samples."""
    copy = streams.clone.values[block.end]
    for frontier, value in ((streams.floats, block.end), (streams.quantized, copy)):
        assert value.producer is not None
        frontier.advance_through(value.producer)
    pairs = zip(streams.floats.values(block.end), streams.quantized.values(copy))
    return sum(
        float(np.square(x - q, dtype=np.float64).sum()) for number, (x, q) in enumerate(pairs) if is_held_out(number)
    )


def is_held_out(number: int) -> bool:
    """Whether a sample is held out of training and judges its result."""
    return number % FOLDS == FOLDS - 1


@dataclass(frozen=True, slots=True)
class _Layer:
    """The names of a layer's trained tensors: weights in units of codes, logarithms of scales, biases; "" for none."""

    unit: Unit
    weight: str
    scale: str
    bias: str
    range: str


class Learner:
    """The training step of one block: a copy of its nodes that reads computed weights."""

    def __init__(self, streams: Streams, block: Block, start: int) -> None:
        self.streams, self.block = streams, block
        frontier, end = streams.quantized, streams.clone.values[block.end]
        assert end.producer is not None
        nodes = frontier.order[start : frontier.place[end.producer] + 1]
        inner = {v for node in nodes for v in node.outputs}
        self.read = list(
            dict.fromkeys(
                v for node in nodes for v in (*node.inputs, *captures(node))
                if v is not None and v.constant is None and v not in inner
            )
        )  # fmt: skip
        values = {v: Value(v.type, f"in{k}") for k, v in enumerate(self.read)}
        self.graph = Graph("block", values.values())
        source = streams.clone.model
        model = Model(self.graph, dict(source.opsets), dict(source.functions), source.ir_version, folder=source.folder)
        self.writer = Writer(self.graph)
        self.wanted: list[str] = []
        self.layers = [self._layer(k, unit, values) for k, unit in enumerate(block.layers)]
        self._copy(nodes, values)
        values[end].name = "out"
        self.graph.set_outputs([values[end]], [Port("out", end.type)])
        self.trainer = Trainer(model, self.wanted, loss={"out": "mse"}, optimizer=Adam(), threads=1)

    def _parameter(self, name: str, array: Array) -> Tensor:
        self.wanted.append(name)
        return Tensor(self.writer, Value(constant=Constant.of(np.array(array, np.float32, order="C")), name=name))

    def _layer(self, number: int, unit: Unit, values: dict[Value, Value]) -> _Layer:
        """The trained tensors of a layer; replaces its weight and bias in `values` by values computed from them."""
        codes, linear = self.streams.assignment.codes[unit.node], self.streams.linear(unit)
        if linear.is_scattered:
            raise Declined("output channels along no single axis", unit.node)
        copy = self.streams.node(unit)
        layer = _Layer(unit, f"learnt.w{number}", f"learnt.s{number}", f"learnt.b{number}", f"learnt.r{number}")
        w, around = self.writer, _along(linear.weight.ndim, linear.axis)
        if codes.bits < 8:
            u = self._parameter(layer.weight, linear.stored(_inside(linear.rows(), codes)))
            low, high = (w.constant(linear.stored(np.broadcast_to(e, codes.rows.shape))) for e in _bounds(codes))
            one, zero = w.constant(np.float32(1)), w.constant(np.int8(0))
            rounded = w.node("DequantizeLinear", w.node("QuantizeLinear", u.Max(low).Min(high), one, zero), one, zero)
            scale = w.constant(codes.scale.reshape(around))
            if self.streams.assignment.options.per_channel:
                scale = scale * (self._parameter(layer.scale, np.zeros(linear.channels)).reshape(around) * SCALES).Exp()
            weight = copy.inputs[1]
            assert weight is not None
            values[weight] = (rounded * scale).value
        holder, slot = (
            (copy, 2) if linear.addition is None else (self.streams.clone.nodes[linear.addition[0]], linear.addition[1])
        )
        bias = holder.input(slot)
        if bias is not None and bias.constant is not None and linear.takes_bias and codes.bias is not None:
            norm = np.linalg.norm(linear.rows(), axis=-1).reshape(-1)
            start = w.constant(np.asarray(codes.bias, np.float32))
            values[bias] = (start + self._parameter(layer.bias, np.zeros(linear.channels)) * w.constant(
                (BIASES * norm).astype(np.float32))).value  # fmt: skip
        return layer

    def _copy(self, nodes: Sequence[Node], values: dict[Value, Value]) -> None:
        """Append the block's nodes; nodes that round a layer's input to few bits get a trained scale."""
        narrow: dict[Node, _Layer] = {}
        ends: dict[Node, Node] = {}
        skipped: set[Node] = set()
        for layer in self.layers:
            pair = self.streams.narrow_input(layer.unit)
            if pair is not None and pair[0] in nodes and pair[0] not in narrow:
                narrow[pair[0]], ends[pair[0]] = layer, pair[1]
                skipped.update(nodes[nodes.index(pair[0]) : nodes.index(pair[1]) + 1])
        for node in nodes:
            if node in narrow:
                source = node.inputs[0]
                assert source is not None
                values[ends[node].output] = self._narrow(narrow[node], values[source])
            elif node not in skipped:
                self.graph.append(clone_node(node, values))

    def _narrow(self, layer: _Layer, source: Value) -> Value:
        grid, w = self.streams.assignment.narrow[layer.unit.inputs[0]], self.writer
        scale = w.constant(np.float32(grid.scale)) * (self._parameter(layer.range, np.zeros(())) * SCALES).Exp()
        zero = w.constant((np.int8 if grid.signed else np.uint8)(grid.zero))
        x = Tensor(w, source).Min(scale * float(grid.high - grid.zero)).Max(scale * float(grid.low - grid.zero))
        return w.node("DequantizeLinear", w.node("QuantizeLinear", x, scale, zero), scale, zero).value

    def run(self, marks: tuple[Mark, Mark], targets: Sequence[Array]) -> Assignment:
        """Train from both streams at the block's start and the float results; returns the trained assignment."""
        rng = np.random.default_rng((self.streams.seed, marks[0].at))
        floats = {copy: value for value, copy in self.streams.clone.values.items()}
        numbers = [k for k in range(self.streams.count) if not is_held_out(k)]
        for step in range(STEPS):
            number = int(rng.choice(numbers))
            feeds = {}
            for k, value in enumerate(self.read):
                seen = np.asarray(marks[1].samples[number][value])
                other = marks[0].samples[number].get(floats[value]) if value in floats else None
                if other is not None and seen.dtype == np.float32 and np.shape(other) == seen.shape:
                    seen = np.where(rng.random(seen.shape) < 0.5, seen, other)
                feeds[f"in{k}"] = seen
            rate = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
            self.trainer.step({**feeds, "out.target": np.asarray(targets[number])}, rate)
        return self._found(self.trainer.state())

    def _found(self, state: dict[str, Array]) -> Assignment:
        assignment = self.streams.assignment
        codes, narrow = dict(assignment.codes), dict(assignment.narrow)
        for layer in self.layers:
            old, linear = codes[layer.unit.node], layer.unit.layer
            rows, scale, bias = old.rows, old.scale, old.bias
            if layer.weight in state:
                low, high = _bounds(old)
                rows = np.clip(np.rint(linear.rows_of(state[layer.weight])), low, high).astype(np.int8)
            if layer.scale in state:
                scale = (scale * np.exp(SCALES * state[layer.scale]).reshape(scale.shape)).astype(np.float32)
            if layer.bias in state and bias is not None:
                norm = np.linalg.norm(self.streams.linear(layer.unit).rows(), axis=-1).reshape(-1)
                bias = (bias + state[layer.bias] * BIASES * norm).astype(np.float32)
            codes[layer.unit.node] = replace(old, rows=rows, scale=scale, bias=bias, worst_pair=worst_pair(rows))
            if layer.range in state:
                grid = narrow[layer.unit.inputs[0]]
                learnt = float(np.float32(grid.scale * math.exp(SCALES * state[layer.range].item())))
                narrow[layer.unit.inputs[0]] = replace(grid, scale=learnt)
        return replace(assignment, codes=codes, narrow=narrow)


def _along(rank: int, axis: int) -> list[int]:
    """The shape of one number for each index of an axis."""
    return [-1 if k == axis else 1 for k in range(rank)]


def _bounds(codes: Codes) -> tuple[Array, Array]:
    """The least and greatest code of each row, f32 [G, N, 1]."""
    most = (1 << (codes.bits - 1)) - 1
    side = (codes.rows.max(axis=-1, keepdims=True) > most).astype(np.float32)
    return side - most - 1, side + most


def _inside(weight: Array, codes: Codes) -> Array:
    """The weights in units of their codes, at most half a code from those chosen: f32 [G, N, K]."""
    return np.asarray(codes.rows + np.clip(weight / codes.scale - codes.rows, -0.45, 0.45), np.float32)
