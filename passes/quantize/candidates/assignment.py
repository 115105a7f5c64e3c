"""An assignment of precisions: the units on integers, and the grids and codes for them; `build` emits its model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from ....calibration import Extent, Shapes, choose_range
from ....ir import Array, Model, Node, Value
from ....kernels.tensors.quantization import Quantization
from ..numerics.grids import Codes, NarrowGrid, activation_grid, bias_codes, merged_extent, narrow_grid
from ..numerics.per_channel import ChannelGrid
from ..numerics.store import CodeStore
from ..options import Quantize
from .shared import Shared
from .units import PACKED, Unit

ALIKE = 2.0
"""Operands of Concat share a grid while the widest range is at most this many times the narrowest: codes are then
copied instead of requantized by a lookup, at the price of at most one bit of the narrowest operand's codes."""


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """One way to quantize `model`.

    units: the units on integers. grids: of every quantizable activation. codes: of each linear operator. channels:
    grids of per-channel activations, whose entry in `grids` is the one that integer operators see. target: the runtime
    that the model is for. shared: weights with several readers. narrow: grids of activations that layers read in fewer
    than 8 bits; other operators read the 8 bits of `grids`. store: of the codes' forms. shapes: of values on the sample
    for timing; none for a large model.
    """

    model: Model
    units: frozenset[Unit]
    grids: dict[Value, Quantization]
    codes: dict[Node, Codes]
    options: Quantize
    channels: dict[Value, ChannelGrid] = field(default_factory=dict)
    target: str = "portable"
    shared: Shared = field(default_factory=Shared)
    narrow: dict[Value, NarrowGrid] = field(default_factory=dict)
    store: CodeStore = field(default_factory=CodeStore)
    shapes: Shapes = field(default_factory=dict)

    @property
    def packs(self) -> bool:
        """Whether codes of fewer than 8 bits are emitted in ONNX's narrow types, where the opset has them.

        onnxruntime and our kernels compute on 8 bits: models for them alone store the same codes in 8 bits.
        """
        return self.target == "portable" and self.options.mode == "static" and self.model.opset >= PACKED

    @property
    def order(self) -> dict[Unit, int]:
        """The position of each unit in the model."""
        place = {node: i for i, node in enumerate(self.model.graph)}
        return {unit: place[unit.node] for unit in self.units}

    @property
    def stored(self) -> Assignment:
        """The assignment without tables, or heads, whose tied partner stays float."""
        units = self.shared.kept(self.units, self.options.mode)
        return self if units == self.units else replace(self, units=units)

    @property
    def only_tables(self) -> bool:
        """Whether nothing runs on integers, and only tables are stored as codes."""
        return all(unit.is_table for unit in self.units)

    def bias_scale(self, unit: Unit) -> Array:
        """The scale f32 [N · G] of a layer's bias codes: the input's scale times the weights' scales."""
        narrow = self.narrow.get(unit.inputs[0])
        step = self.grids[unit.inputs[0]].scale if narrow is None else narrow.scale
        return np.asarray(np.float32(step) * self.codes[unit.node].scale.reshape(-1), np.float32)

    def rounded_bias(self, unit: Unit) -> Array:
        """The bias of a layer as its codes represent it, f32 [N · G]; unrounded for a product whose bias is an Add."""
        bias = self.codes[unit.node].bias
        assert bias is not None
        if unit.layer.addition is not None:
            return bias
        return np.asarray(bias_codes(bias, self.bias_scale(unit)) * self.bias_scale(unit), np.float32)

    def without(self, units: Iterable[Unit]) -> Assignment:
        """The assignment with `units` left float."""
        return replace(self, units=self.units - frozenset(units))

    def with_units(self, units: Iterable[Unit]) -> Assignment:
        """The assignment with exactly `units` on integers."""
        return replace(self, units=frozenset(units))


def choose_grids(units: Iterable[Unit], seen: dict[Value, Extent], options: Quantize) -> dict[Value, Quantization]:
    """A grid for every activation of the units; activations between which codes pass unchanged share one."""
    units = [u for u in units if all(v in seen for v in (*u.inputs, *u.outputs))]
    limits = {unit.output: unit.limits for unit in units if unit.clamp is not None}
    parent: dict[Value, Value] = {}

    def root(value: Value) -> Value:
        while parent.setdefault(value, value) is not value:
            value = parent[value]
        return value

    for unit in units:
        for value in (*unit.inputs, *unit.outputs):
            root(value)
        if unit.passes_codes:
            for value in unit.outputs:
                parent[root(value)] = root(unit.inputs[0])
    for unit in units:
        if unit.node.op == "Concat" and unit.clamp is None and _alike(seen[v] for v in (*unit.inputs, unit.output)):
            for value in unit.inputs:
                parent[root(value)] = root(unit.output)
    members: dict[Value, list[Value]] = {}
    for value in parent:
        members.setdefault(root(value), []).append(value)
    signed, method = options.signed, options.calibrate_method
    grids: dict[Value, Quantization] = {}
    for values in members.values():
        extent = merged_extent([seen[v] for v in values])
        low, high = choose_range(extent, method, symmetric=signed, percentile=options.percentile)
        ends = [limits[v] for v in values if v in limits]
        if len(ends) == len(values):  # a clamp's own limits bound the range: codes then clamp exactly
            low, high = max(low, min(e[0] for e in ends)), min(high, max(e[1] for e in ends))
        grid = activation_grid(low, high, signed)
        grids.update((value, grid) for value in values)
    return grids


def narrow_grids(units: Iterable[Unit], seen: dict[Value, Extent], options: Quantize) -> dict[Value, NarrowGrid]:
    """A grid for every activation that a layer reads in fewer than 8 bits; none for 8-bit activations."""
    bits = options.activation_bits
    if bits == 8:
        return {}
    read = dict.fromkeys(u.inputs[0] for u in units if u.linear is not None and u.inputs)
    found = {}
    for value in (v for v in read if v in seen):
        low, high = choose_range(
            seen[value], options.calibrate_method, levels=1 << bits, symmetric=options.signed,
            percentile=options.percentile,
        )  # fmt: skip
        found[value] = narrow_grid(low, high, bits, options.signed)
    return found


def _alike(extents: Iterable[Extent]) -> bool:
    widths = [float(extent.high) - float(extent.low) for extent in extents]
    return min(widths) > 0 and max(widths) <= ALIKE * min(widths)


def implied(unit: Unit, grid: Quantization) -> bool:
    """Whether saturation of the codes equals the unit's clamp, so that the clamp can be dropped."""
    if unit.clamp is None:
        return False
    low, high = unit.limits
    least, most = ((code - grid.zero_point) * grid.scale for code in (grid.low, grid.high))
    return bool(least >= low and most <= high * (1 + 1e-6))
