"""Emit an assignment as a model: QuantizeLinear and DequantizeLinear pairs around the units on integers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ....compress.layers.linear import Linear
from ....ir import Constant, DType, Graph, Model, Node, TensorType, Use, Value
from ....kernels.tensors.quantization import Quantization
from ....rewrite import Context
from ...clean import merge_identical_constants
from ...codes.few_channels import widen_channels
from ...codes.operators import to_operators
from ..candidates.assignment import Assignment, implied
from ..candidates.units import Unit
from ..numerics.grids import bias_codes
from ..numerics.per_channel import ChannelGrid
from .constants import along_channels, constant, dequantized, grid_operands
from .layers import quantize_dynamically, store_weights
from .mapped_clone import MappedClone, mapped_clone
from .narrow import narrowed, packed_codes
from .tables import read_codes_once, share_codes, share_floats, store_table


def build(assignment: Assignment, labels: dict[Node, str] | None = None) -> Model:
    """A copy of the assignment's model in QDQ form, or in that of its mode. A value is quantized and dequantized once.

    labels: names for nodes and their outputs, to distinguish them in a profile; by default they keep their own.
    """
    assignment = assignment.stored
    clone, mode = mapped_clone(assignment.model), assignment.options.mode
    if labels is not None:
        name_nodes(clone, labels)
    if mode == "static":
        _QdqBuilder(assignment, clone, labels is not None).run()
        if assignment.target != "graphopt":  # its own kernels take any number of channels
            widen_channels.run(clone.model.graph, Context(assignment.target))
        if assignment.options.format == "qoperator":
            to_operators(clone.model.graph)
    else:
        dtype = assignment.options.weight_dtype
        for unit in sorted(assignment.units, key=assignment.order.__getitem__):
            codes = assignment.codes[unit.node]
            if unit.is_table:
                store_table(clone, unit, codes, assignment)
            elif mode == "dynamic" and not codes.is_stored:
                quantize_dynamically(clone, unit, codes, dtype)
            else:
                store_weights(clone, unit, codes, assignment)
    if assignment.shared.codes_of or assignment.shared.heads:
        share_floats(clone, assignment)
        share_codes(clone)
        merge_identical_constants.run(clone.model.graph, Context(assignment.target))
        read_codes_once(clone)
    return clone.model


def simulated(assignment: Assignment) -> MappedClone:
    """The static form of an assignment with weights and biases as float constants, replaceable one by one."""
    clone = mapped_clone(assignment.model)
    _QdqBuilder(assignment, clone, False, simulates=True).run()
    return clone


def name_nodes(clone: MappedClone, labels: dict[Node, str]) -> None:
    """Name the copies of nodes, and their outputs, by `labels`."""
    for node, name in labels.items():
        copy = clone.nodes[node]
        copy.name = name
        for value in copy.outputs:
            value.name = f"{name}{value.index}"


class _QdqBuilder:
    """Edits the clone of an assignment's model into QDQ form, unit after unit."""

    def __init__(self, assignment: Assignment, clone: MappedClone, labelled: bool, simulates: bool = False) -> None:
        self.simulates = simulates
        self.narrowed: dict[Value, Value] = {}  # original value -> its form in fewer bits, for layers
        self.assignment, self.clone, self.graph = assignment, clone, clone.model.graph
        self.labelled = labelled
        self.pairs: dict[Value, Value] = {}  # original value -> its dequantized form
        self.producer = {value: unit for unit in assignment.units if not unit.is_table for value in unit.outputs}
        self.scalars: dict[Quantization, tuple[Value, Value]] = {}
        self.integer = {clone.nodes[unit.node] for unit in assignment.units}

    def run(self) -> None:
        """Store tables, then quantize all other units, in order of execution."""
        ordered = sorted(self.assignment.units, key=self.assignment.order.__getitem__)
        for unit in ordered:
            if unit.is_table:
                store_table(self.clone, unit, self.assignment.codes[unit.node], self.assignment)
        for unit in (u for u in ordered if not u.is_table):
            copy = self.clone.nodes[unit.node]
            for value in unit.inputs:
                is_narrow = unit.linear is not None and value in self.assignment.narrow
                read = self._narrow(value) if is_narrow else self._pair(value)
                for slot, used in enumerate(copy.inputs):
                    if used is self.clone.values[value] or (is_narrow and used is self.pairs.get(value)):
                        self.graph.set_input(copy, slot, read)
            if unit.linear is not None:
                self._weights(unit, copy)
            for value in unit.outputs:
                if self._wants_codes(unit, value):
                    self._pair(value)

    def _wants_codes(self, unit: Unit, value: Value) -> bool:
        if self._only_narrow(value):
            return False
        if not unit.may_end_float:
            return True
        consumers = {u.node for u in self.assignment.units if value in u.inputs}
        return bool(consumers & set(value.users))

    def _only_narrow(self, value: Value) -> bool:
        """Whether only layers read a value's codes, in fewer than 8 bits."""
        unit = self.producer.get(value)
        if value not in self.assignment.narrow or (unit is not None and unit.passes_codes):
            return False
        readers = [u for u in self.assignment.units if value in u.inputs]
        return bool(readers) and all(u.linear is not None for u in readers)

    def _narrow(self, value: Value) -> Value:
        """A value in fewer than 8 bits, rounded from its float form, or from its 8-bit form if that has other
        readers."""
        known = self.narrowed.get(value)
        if known is None:
            grid, copy = self.assignment.narrow[value], self.clone.values[value]
            source, unit = copy if self._only_narrow(value) else self._pair(value), self.producer.get(value)
            # onnxruntime 1.32 fuses a product between codes of 4 bits into one of 8, and computes or loads it wrongly
            fused = source is copy and unit is not None and unit.linear is not None
            packs = self.assignment.packs and not (self.simulates or fused or grid.signed)
            steps = narrowed(source, grid, packs, self._label(copy, "narrow"))
            self._insert(source, steps)
            known = self.narrowed[value] = steps[-1].output
            known.name = _named(copy, "narrow")
        return known

    def _pair(self, value: Value) -> Value:
        """The dequantized form of a value; inserted when first needed, right behind the value's producer."""
        known = self.pairs.get(value)
        if known is not None:
            return known
        grid = self.assignment.grids[value]
        copy = self.clone.values[value]
        unit = self.producer.get(value)
        source = copy
        if unit is not None and unit.clamp is not None and not self.simulates and implied(unit, grid):
            source = self.clone.nodes[unit.node].output
        uses = copy.uses
        scale, zero = self._scalar(grid)
        channels = self.assignment.channels.get(value)
        shape = copy.type.shape if isinstance(copy.type, TensorType) else None
        if channels is None or unit is not None:
            steps = [Node("QuantizeLinear", (source, scale, zero), name=self._label(copy, "quantize"))]
        else:
            steps = along_channels("QuantizeLinear", source, channels, self._label(copy, "quantize"))
        coded = steps[-1].output
        coded.name = _named(copy, "quantized")
        coded.type = TensorType(DType.INT8 if grid.signed else DType.UINT8, shape)
        dequantize = Node("DequantizeLinear", (coded, scale, zero), name=self._label(copy, "dequantize"))
        result = dequantize.output
        result.name = _named(copy, "dequantized")
        result.type = TensorType(DType.FLOAT, shape)
        self._insert(copy, [*steps, dequantize])
        if unit is not None:
            self._redirect(uses, result, channels)
            if result.is_unused:  # only float operators read the value, by channel
                self.graph.erase(dequantize)
        if source is not copy:
            clamp = copy.producer
            assert clamp is not None
            self.graph.erase(clamp)
        self.pairs[value] = result
        return result

    def _label(self, value: Value, suffix: str) -> str:
        """A node's name: only where labels are given, since names must not clash."""
        return _named(value, suffix) if self.labelled else ""

    def _redirect(self, uses: Iterable[Use], result: Value, channels: ChannelGrid | None) -> None:
        """Redirect uses of a value to its dequantized form: float operators to the per-channel form, if any."""
        per_channel: Value | None = None
        for use in uses:
            read = result
            if channels is not None and use.node not in self.integer:
                if per_channel is None:
                    anchor = result.producer
                    assert anchor is not None and anchor.inputs[0] is not None
                    steps = along_channels("DequantizeLinear", anchor.inputs[0], channels, "")
                    per_channel = steps[-1].output
                    per_channel.name, per_channel.type = _named(result, "channels"), result.type
                    self._after(anchor, steps)
                read = per_channel
            owner = use.node.graph
            assert owner is not None
            owner.set_input(use.node, use.slot, read)

    def _insert(self, value: Value, steps: Sequence[Node]) -> None:
        """Insert nodes right after a value's producer, or first for an input."""
        first, *rest = steps
        if value.producer is not None:
            self.graph.insert_after(value.producer, first)
        else:
            self.graph.insert_before(_first(self.graph), first)
        first.made_by = "quantize"
        self._after(first, rest)

    def _after(self, anchor: Node, steps: Iterable[Node]) -> None:
        for step in steps:
            step.made_by = "quantize"
            self.graph.insert_after(anchor, step)
            anchor = step

    def _scalar(self, grid: Quantization) -> tuple[Value, Value]:
        known = self.scalars.get(grid)
        if known is None:
            known = self.scalars[grid] = grid_operands(grid)
        return known

    def _weights(self, unit: Unit, copy: Node) -> None:
        linear, held = unit.layer, unit.layer.gathered if unit.layer.is_scattered else unit.layer
        codes = self.assignment.codes[unit.node]
        name = unit.node.inputs[1].name if unit.node.inputs[1] is not None else ""
        scale, zero = codes.scale.reshape(-1), None
        stored, kind = held.stored(codes.rows), self.assignment.options.weight_dtype
        per_channel = bool(np.ptp(scale)) or self.assignment.options.per_channel
        axis = held.axis if per_channel else None
        if self.simulates:
            whole = (codes.rows * codes.scale).astype(np.float32)
            self.graph.set_input(copy, 1, Value(constant=Constant.of(linear.stored(whole)), name=name))
        else:
            if codes.bits < 8 and self.assignment.packs:
                stored, zero, kind = packed_codes(held, codes, self.assignment.model.opset)
            read = dequantized(self.graph, copy, stored, scale, axis, name, zero=zero, dtype=kind)
            self.graph.set_input(copy, 1, read if held is linear else self._scattered(copy, read, linear))
        if codes.bias is None or not linear.takes_bias:
            return
        if linear.addition is not None:
            node, slot = linear.addition
            bias = Value(constant=Constant.of(codes.bias), name=f"{name}_bias")
            self.graph.set_input(self.clone.nodes[node], slot, bias)
            return
        if self.simulates:
            rounded = Constant.of(self.assignment.rounded_bias(unit))
            self.graph.set_inputs(copy, (*copy.inputs[:2], Value(constant=rounded, name=f"{name}_bias")))
            return
        unit_scale = self.assignment.bias_scale(unit)
        whole = bias_codes(codes.bias, unit_scale).astype(np.int32)
        read = dequantized(self.graph, copy, whole, unit_scale, 0 if per_channel else None, f"{name}_bias")
        self.graph.set_inputs(copy, (*copy.inputs[:2], read))

    def _scattered(self, copy: Node, weight: Value, linear: Linear) -> Value:
        """[N · G, C/G, …] as the weight [C, N, …] of a transposed convolution in groups, of which no axis holds the
        output channels."""
        shape, groups = linear.constant.shape, linear.groups
        split = (groups, linear.channels // groups, shape[0] // groups, *shape[2:])
        perm = (0, 2, 1, *range(3, len(split)))
        steps = [Node("Reshape", (weight, constant(np.array(split), "", "split")))]
        steps.append(Node("Transpose", (steps[-1].output,), {"perm": perm}))
        steps.append(Node("Reshape", (steps[-1].output, constant(np.array(shape), "", "whole"))))
        for step, sizes in zip(steps, (split, tuple(split[k] for k in perm), shape)):
            step.output.type = TensorType(DType.FLOAT, sizes)
            step.made_by = "quantize"
            self.graph.insert_before(copy, step)
        return steps[-1].output


def _named(value: Value, suffix: str) -> str:
    return f"{value.name}_{suffix}" if value.name else ""


def _first(graph: Graph) -> Node:
    return next(iter(graph), graph.return_node)
