"""Each layer refitted by least squares to its quantized inputs, then rounded with the error fed back, in order.

Targets are the layer's float results y: W* = argmin E‖y − W x_q − b‖², and codes minimise J = tr(Δ C_q Δᵀ), where
Δ = W* − W_q and C_q is the covariance of the quantized inputs. The layer compensates errors of earlier quantized layers
in its input as far as possible (Hubara et al. 2021, "Accurate Post Training Quantization With Small Calibration Sets",
by gradients).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ....calibration import numbers
from ....compress.context import StageContext
from ....compress.layers.linear import Linear
from ....compress.layers.moments import fits_memory
from ....compress.layers.regression import NormalEquations, fit
from ....equivalence.feeds import Feeds
from ....ir import Array, Value
from ..candidates.assignment import Assignment
from ..candidates.units import Unit
from ..errors.output_ranges import output_histograms
from ..numerics.grids import Codes, NarrowGrid, narrow_grid
from ..numerics.solve import layer_codes
from .streams import Rows, Streams, layers_of

RIDGE = 1e-3
"""Ridge of a refit, relative to the mean energy of an input; multiples are tried on held-out rows, as in pruning.
`python -m tests.bench.below8` shows the accuracy."""
SHARES = np.linspace(1.0, 0.2, 41)
"""Candidate ranges of few bits as shares of an activation's range, in steps of 2 %."""
SLOPES = 32
"""Feeds whose gradients choose the ranges of few bits: a bound on time, as many as judge results."""
SEEN = 1 << 20
"""Elements of an activation for choosing its range: a bound on time, not tuned."""


def refit(assignment: Assignment, context: StageContext, feeds: Sequence[Feeds]) -> Assignment:
    """The assignment with codes, biases and grids of few bits fitted layer by layer.

    A layer keeps its old codes where they predict held-out rows better.
    """
    assignment, chosen = with_output_grids(assignment, context, feeds)
    streams = Streams(assignment, feeds, context.seed)
    layers = layers_of(assignment)
    for count, unit in enumerate(layers):
        context.tell(f"refit to quantized inputs: layer {count + 1} of {len(layers)}", count / len(layers))
        reach(streams, unit, chosen)
        streams.set_codes(unit, refit_layer(streams, unit))
    return streams.assignment


def reach(streams: Streams, unit: Unit, chosen: set[Value]) -> None:
    """Run both streams up to a layer, and choose the grid of few bits of its input, unless it is among `chosen`."""
    value = unit.inputs[0]
    if value in streams.assignment.narrow and value not in chosen:
        chosen.add(value)
        set_narrow_grid(streams, unit)
    streams.advance(unit)


def refit_layer(streams: Streams, unit: Unit) -> Codes:
    """The refitted codes of a layer that both streams have reached."""
    linear, old = streams.linear(unit), streams.assignment.codes[unit.node]
    if not fits_memory(linear):
        return old
    rows = streams.rows(unit)
    if not rows.train.rows or not rows.held_out.rows:
        return old
    return best_of(linear, old, rows, streams.assignment, unit)


def best_of(linear: Linear, old: Codes, rows: Rows, assignment: Assignment, unit: Unit) -> Codes:
    """The best of: old codes, old codes with a new bias, float weights rounded again, refitted weights rounded; by the
    error on held-out rows, then recomputed from all rows."""
    options, target = assignment.options, assignment.target
    step = assignment.grids[unit.inputs[0]].scale
    weight = linear.rows().astype(np.float64).transpose(0, 2, 1)  # [G, K, N]
    bias = np.zeros((linear.groups, weight.shape[2])) if linear.bias is None else linear.bias.reshape(linear.groups, -1)
    bias = bias.astype(np.float64)

    def rounded(sums: NormalEquations, start: Array) -> Codes:
        rows_of = start.transpose(0, 2, 1).astype(np.float32)
        return layer_codes(linear, rows_of, _covariances(sums, linear.takes_bias), options, target, step, old.bits)

    fitted = fit(rows.train, rows.held_out, weight, bias, RIDGE, linear.takes_bias)
    starts = [weight] if fitted is None else [weight, fitted[0]]
    tried = [old, *(rounded(rows.train, start) for start in starts)]
    if linear.takes_bias:
        tried = [old, *(_with_bias(linear, codes, rows.train) for codes in tried)]
    errors = [rows.held_out.error(*_floats(linear, codes)) for codes in tried]
    best = int(np.argmin(errors))
    if best == 0:
        return old
    whole = rows.all
    if not linear.takes_bias:
        return rounded(whole, starts[best - 1])
    chosen = old if best == 1 else rounded(whole, starts[best - 2])
    return _with_bias(linear, chosen, whole)


def _covariances(sums: NormalEquations, centred: bool) -> Array:
    """E[x xᵀ], less E[x] E[x]ᵀ where a bias absorbs the mean: f32 [G, K, K]."""
    size, count = sums.inputs, max(sums.rows, 1)
    second = sums.gram[:, :size, :size] / count
    if centred:
        mean = sums.gram[:, :size, size] / count
        second = second - mean[:, :, None] * mean[:, None, :]
    return np.asarray(second, np.float32)


def _with_bias(linear: Linear, codes: Codes, sums: NormalEquations) -> Codes:
    """The codes with the bias E y − W_q E x."""
    size, count = sums.inputs, max(sums.rows, 1)
    mean, wanted = sums.gram[:, :size, size] / count, sums.cross[:, size] / count
    whole = (codes.rows * codes.scale).astype(np.float64)
    bias = wanted - np.einsum("gnk,gk->gn", whole, mean)
    return replace(codes, bias=bias.reshape(-1).astype(np.float32))


def _floats(linear: Linear, codes: Codes) -> tuple[Array, Array]:
    """The dequantized weight [G, K, N] and the bias [G, N] of codes."""
    whole = (codes.rows * codes.scale).astype(np.float64).transpose(0, 2, 1)
    bias = np.zeros(linear.channels) if codes.bias is None else codes.bias.astype(np.float64)
    return whole, bias.reshape(linear.groups, -1)


def set_narrow_grid(streams: Streams, unit: Unit) -> None:
    """Set the few-bit grid of a layer's input to the one of least squared error."""
    nodes = streams.narrow_input(unit)
    assert nodes is not None
    streams.quantized.advance(nodes[0])
    source = nodes[0].inputs[0]
    assert source is not None
    parts, rng = [], np.random.default_rng(streams.seed)
    for x in streams.quantized.values(source):
        flat = np.asarray(x).reshape(-1)
        kept = numbers(flat)
        flat = flat if kept is None else flat[kept]
        most = SEEN // max(streams.count, 1)
        parts.append(flat if len(flat) <= most else rng.choice(flat, most, replace=False))
    values = np.concatenate(parts)
    streams.set_scale(unit, best_grid_for(values, streams.assignment.narrow[unit.inputs[0]]))


def best_grid_for(values: Array, old: NarrowGrid) -> NarrowGrid:
    """The grid, of the old grid's bits, with the least squared error on values f32 [n]."""
    if not len(values):
        return old
    low, high = float(min(values.min(), 0.0)), float(max(values.max(), 0.0))
    if high - low <= 0:
        return old
    counts, edges = np.histogram(values, 4096, (low, high))
    centres = ((edges[:-1] + edges[1:]) / 2).astype(np.float32)
    kept = counts > 0
    return _cheapest(centres[kept], counts[kept].astype(np.float64), (low, high), old)


def with_output_grids(
    assignment: Assignment, context: StageContext, feeds: Sequence[Feeds]
) -> tuple[Assignment, set[Value]]:
    """The assignment with few-bit grids of least error in the results, and their activations: those with gradients
    (`errors.output_ranges`)."""
    narrow = dict(assignment.narrow)
    ranges = {v: ((g.low - g.zero) * g.scale, (g.high - g.zero) * g.scale) for v, g in narrow.items()}
    found = output_histograms(assignment.model, ranges, feeds[-SLOPES:], context.seed) if ranges else {}
    for value, (centres, weights) in found.items():
        if len(centres):
            narrow[value] = _cheapest(centres, weights, ranges[value], narrow[value])
    return replace(assignment, narrow=narrow), set(found)


def _cheapest(centres: Array, weights: Array, whole: tuple[float, float], old: NarrowGrid) -> NarrowGrid:
    """The grid, of the old grid's bits, with the least weighted squared error at points f32 [n], weights f64 [n]."""
    low, high = whole

    def cost(grid: NarrowGrid) -> float:
        return float(weights @ np.square(grid.rounded(centres) - centres, dtype=np.float64))

    ends = [(low, high)]
    for above in SHARES:
        ends += [(low * below, high * above) for below in (SHARES[::4] if low < 0 and not old.signed else (above,))]
    grids = [narrow_grid(a, b, old.bits, old.signed) for a, b in ends]
    return min(grids, key=cost)
