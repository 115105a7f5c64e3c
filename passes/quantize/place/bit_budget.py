"""Mixed bits of stored weights: bits and block of each layer, with the least harm within a total budget.

A layer's harm is measured with that layer alone rounded to `MEASURED_BITS`: the divergence of the next token's
distribution in language models, elsewhere the power of the results' noise. One session of the float model, with weights
as inputs, serves all layers. Harm grows with the power of rounding noise, the mean square of a grid's steps: fewer
codes and wider blocks make them larger.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ....compress.choices import layer_names, word_of
from ....compress.context import StageContext
from ....compress.layers.linear import PRODUCTS, Linear
from ....errors import OptionError
from ....ir import Array, DType, Model, TensorType, Value
from ..candidates.block_sizes import block_of, can_pack, tied_block, usual_block
from ..candidates.prepare import spell_for_integers
from ..candidates.shared import Shared, float_products, share_weights
from ..candidates.units import Unit, find_tables, find_units, layer_units
from ..emit.mapped_clone import mapped_clone
from ..errors.variants import Variants
from ..numerics.blocks import block_count, plain_scale, spread
from ..options import Quantize

MEASURED_BITS = 3
"""The width at which single layers are measured: between the selectable widths. A choice, not tuned."""
MEASURED_BLOCK = 32
"""Inputs that share a scale in these measurements: the usual number."""
SIZES = (32, 64, 128)
"""Inputs that share a scale of fewer than 8 bits, to choose from: with 4 bits 5.1, 4.6 and 4.3 bits a weight."""
SCALE_BITS = 32
"""Bits of a scale: float32."""


class Width(NamedTuple):
    """How a layer is stored: the bits of a code, and the inputs that share a scale, None for the usual number."""

    bits: int
    block: int | None = None


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """The candidate widths of one or more layers, by the total bits, with the harm of each width."""

    widths: tuple[Width, ...]
    stored: tuple[float, ...]
    harm: tuple[float, ...]

    @property
    def useful(self) -> list[int]:
        """The candidates that are the best for some price of a bit: the lower convex hull of harm over stored bits."""
        kept: list[int] = []
        for k in range(len(self.widths)):
            if kept and self.harm[k] >= self.harm[kept[-1]]:
                continue
            while len(kept) > 1 and self.saved(kept[-2], kept[-1]) <= self.saved(kept[-1], k):
                kept.pop()
            kept.append(k)
        return kept

    def saved(self, narrow: int, wide: int) -> float:
        """The harm saved per bit from one candidate to a wider one."""
        return (self.harm[narrow] - self.harm[wide]) / (self.stored[wide] - self.stored[narrow])


def with_bit_budget(model: Model, options: Quantize, context: StageContext) -> Quantize:
    """The options with a choice for each layer in place of the budget. OptionError for a budget below the narrowest
    widths' bits."""
    if options.bits_per_weight is None:
        return options
    asked = replace(options, bits_per_weight=None)
    ready = spell_for_integers(model, asked, context.target)
    units, shared = _layers(ready, asked)
    names = layer_names(ready.graph)
    own = [
        u for u in units if u.node not in shared.codes_of and not {names[u.node], *u.node.origins} & asked.layers.keys()
    ]
    weights = sum(unit.layer.constant.size for unit in own)
    if not own:
        return asked
    groups = _groups(own)
    stored = [_stored_bits(ready, group, asked, context, shared) for group in groups]
    least = sum(min(of_layer.values()) for of_layer in stored)
    if least > options.bits_per_weight * weights:
        raise OptionError(
            f"quantize: bits_per_weight {options.bits_per_weight:g} is below {least / weights:.2f}, the least that the "
            f"layers take with their scales for target {context.target}"
        )
    harms = _harms(ready, groups, units, shared, context)
    choices = [
        LayerChoice(tuple(of), tuple(of.values()), tuple(harm * _noise(group, width) for width in of))
        for group, of, harm in zip(groups, stored, harms)
    ]
    found = allocate(choices, options.bits_per_weight * weights)
    chosen = {unit.node: width for group, width in zip(groups, found) for unit in group}
    chosen |= {u.node: Width(8) for u in find_tables(ready.graph, asked) if u.node not in {v.node for v in units}}
    words = {
        names[node]: word_of("weights", *chosen[shared.codes_of.get(node, node)])
        for node in names
        if shared.codes_of.get(node, node) in chosen
    }
    widest = max(width.bits for width in chosen.values())
    return replace(asked, weight_type=f"int{widest}", layers={**words, **asked.layers})


def allocate(choices: Sequence[LayerChoice], budget: float) -> list[Width]:
    """Widths of layers within `budget` bits in total: each starts at its narrowest, and the widening that saves most
    harm per bit comes first.

    Harm is convex in the bits of useful candidates, so this greedy choice is optimal but for the last layers that fit.
    """
    useful = [choice.useful for choice in choices]
    taken = [0] * len(choices)
    left = budget - sum(choice.stored[0] for choice in choices)
    steps = sorted(
        (
            (choice.saved(narrow, wide), k, number)
            for number, (choice, kept) in enumerate(zip(choices, useful))
            for k, (narrow, wide) in enumerate(pairwise(kept))
        ),
        key=lambda step: (-step[0], step[1:]),
    )
    for _, k, number in steps:
        stored, kept = choices[number].stored, useful[number]
        more = stored[kept[k + 1]] - stored[kept[k]]
        if taken[number] == k and more <= left:
            taken[number], left = k + 1, left - more
    return [choice.widths[kept[at]] for choice, kept, at in zip(choices, useful, taken)]


def _layers(ready: Model, options: Quantize) -> tuple[list[Unit], Shared]:
    """Layers with a selectable width: products and convolutions, and tables tied to a product."""
    units = layer_units(find_units(ready, options).members, options.mode)
    units = [*units, *find_tables(ready.graph, options)]
    tied, shared = share_weights(units, float_products(ready.graph, units))
    return [u for u in tied if not u.is_table or u.node in shared.heads], shared


def _groups(units: Iterable[Unit]) -> list[list[Unit]]:
    """Groups of products of one input, which get one width so that they can be merged; other layers alone."""
    groups: dict[object, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.inputs[0] if unit.node.op in PRODUCTS else unit, []).append(unit)
    return list(groups.values())


def _stored_bits(
    model: Model, group: Sequence[Unit], options: Quantize, context: StageContext, shared: Shared
) -> dict[Width, float]:
    """The bits of a group's weights, scales and zero points, by width, least first."""
    packs_two = all(can_pack(model, unit.node.op, context.target, 2) for unit in group)
    heads = {*shared.heads.values()}
    found = dict[Width, float]()
    for bits in (2, 4, 8) if packs_two else (4, 8):
        asked = replace(options, weight_type=f"int{bits}")
        for size in _block_sizes(asked, context, any(unit.node in heads for unit in group)):
            blocks = [block_of(unit.layer, asked, context.target, size) for unit in group]
            taken = sum(_taken(unit.layer, bits, block, context) for unit, block in zip(group, blocks))
            found.setdefault(Width(bits, blocks[0] if bits < 8 else None), taken)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _block_sizes(options: Quantize, context: StageContext, is_tied: bool) -> Iterable[int | None]:
    """The block sizes to choose from for these bits; None for all inputs."""
    if options.block_size is not None:
        return (options.block_size,)
    if options.weight_bits < 8:
        return SIZES
    return (tied_block(context) if is_tied else usual_block(options, context),)


def _taken(linear: Linear, bits: int, block: int | None, context: StageContext) -> float:
    if block is None:
        return float(linear.constant.size * bits + linear.channels * SCALE_BITS)
    blocks = block_count(linear.depth, block)
    zeros = blocks * bits if bits < 8 else 0
    depth = linear.depth
    if context.target == "onnxruntime":  # each output has whole blocks, and zero points of whole bytes
        depth, zeros = blocks * block, -(-zeros // 8) * 8
    return float(linear.channels * (depth * bits + blocks * SCALE_BITS + zeros))


def _noise(group: Sequence[Unit], width: Width) -> float:
    """The power of the noise of a width over that of the measured one."""
    steps = ((1 << (MEASURED_BITS - 1)) - 1) / ((1 << (width.bits - 1)) - 1)
    return steps**2 * (1.0 if width.block is None else _coarser(group, width.block))


def _coarser(group: Sequence[Unit], block: int) -> float:
    """The mean square of the scales of blocks of this size over that of the measured ones."""
    squares = np.zeros(2)
    for unit in group:
        rows = unit.layer.rows().astype(np.float32, copy=False)
        for at, size in enumerate((block, MEASURED_BLOCK)):
            scale = spread(plain_scale(rows, MEASURED_BITS, size), rows.shape[-1], size)
            squares[at] += np.square(scale).sum(dtype=np.float64)
    return float(squares[0] / squares[1]) if squares[1] else 1.0


def _harms(
    ready: Model, groups: Sequence[Sequence[Unit]], units: Sequence[Unit], shared: Shared, context: StageContext
) -> list[float]:  # fmt: skip
    """The harm to the results of rounding each group alone, with the layers that share its weights."""
    own = [unit for group in groups for unit in group]
    readers = {u: [v for v in units if v is u or shared.codes_of.get(v.node) is u.node] for u in own}
    clone, inputs = mapped_clone(ready), dict[Unit, str]()
    for number, unit in enumerate(v for readings in readers.values() for v in readings):
        constant, node = unit.layer.constant, clone.nodes[unit.node]
        inputs[unit] = f"graphopt.weight{number}"
        given = clone.model.graph.add_input(Value(TensorType(DType.FLOAT, constant.shape), inputs[unit]))
        clone.model.graph.set_input(node, 0 if unit.is_table else 1, given)
    weights = {name: np.ascontiguousarray(unit.layer.weight) for unit, name in inputs.items()}
    variants = Variants(clone.model, weights, context, len(groups))
    harms = []
    for count, group in enumerate(groups):
        context.tell(f"measure: layer {count + 1} of {len(groups)}", count / len(groups))
        changed: dict[str, Array] = {}
        for unit in group:
            rounded = _rounded(unit.layer)
            changed |= {inputs[v]: _stored(v.layer, rounded) for v in readers[unit]}
        harms.append(variants.harm(changed))
    return harms


def _stored(linear: Linear, rows: Array) -> Array:
    """Rows in the layout of the model's weight."""
    return np.ascontiguousarray(linear.stored(rows).reshape(linear.constant.shape))


def _rounded(linear: Linear) -> Array:
    """The weight's rows f32 [G, N/G, K], rounded to the nearest of `MEASURED_BITS`."""
    rows = linear.rows().astype(np.float32)
    scale = spread(plain_scale(rows, MEASURED_BITS, MEASURED_BLOCK), rows.shape[-1], MEASURED_BLOCK)
    most = np.float32((1 << (MEASURED_BITS - 1)) - 1)
    return np.asarray(np.clip(np.rint(rows / scale), -most - 1, most) * scale, np.float32)
