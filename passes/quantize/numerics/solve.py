"""Solve for the codes of a layer: scales, rounding and bias, with J before and after."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from ....compress.layers.covariance import Covariance, ridged
from ....compress.layers.linear import Linear
from ....compress.layers.moments import InputMoments
from ....ir import Array
from ....kernels import select_level
from ..options import Quantize
from .blocks import best_grid, fitted_scale, in_parts, plain_scale, spread
from .factor import Factor
from .grids import LEAST, PAIR_LIMIT, Codes, bias_room, weight_scale, worst_pair
from .narrow import grouped_codes
from .rounding import (
    best_codes,
    clipped_scale,
    damped_factor,
    damping,
    descend,
    is_polished,
    nearest,
    nearest_codes,
    objective,
    parts_of,
    spread_codes,
)
from .single_rows import single_row_codes

BITS = {"int8": 8, "uint8": 8, "int4": 4, "int3": 3, "int2": 2}  # of a code

UNSEEN = 0.3
"""Added to the diagonal of C, relative to the square of the inputs' mean deviation, for few bits in blocks: what data
of other texts do where these showed little. One input that is a thousand times the others, as the first token's are,
makes the mean variance, not this. Of 32 layers of SmolLM2-135M at 3 bits the error on other texts is with 0.2, 0.3 and
0.5 as 0.93, 0.92 and 0.92 where it is 1 with 0.2 of the mean variance; `python -m tests.bench.language` shows what it
leads to."""
TABLE_SHARE = 0.03
"""Weight of the rows' own error beside the products' where a head is also a table, both relative to their signals:
later layers compensate errors of a table's rows. SmolLM2-135M with these weights alone in 4 bits diverges on texts
beside those of the benchmark, with 1, 0.3, 0.1 and 0.03, by 0.063, 0.060, 0.058 and 0.057 nats; in 3 bits, with 1 and
0.03, by 0.237 and 0.224. `python -m tests.bench.language` shows the effect."""
POLISHED_BLOCKS = 2e10
"""The most multiply-adds of one sweep of coordinate descent over stored weights of few bits, above `POLISHED`: the head
of SmolLM2-135M takes 1.6e10, and 7 s for scales and sweeps."""


@dataclass(frozen=True, slots=True)
class Solved:
    """Codes of one layer.

    before, after: J = E‖W x − W_q x‖² of nearest rounding and of the codes; None without data. signal: E‖W x‖², the
    reference for J, less the mean where a bias absorbs it, as in J.
    """

    codes: Codes
    before: float | None
    after: float | None
    signal: float | None = None

    @property
    def error(self) -> float | None:
        """√(J / signal): relative error of the layer's result from its weights alone. None without data or signal."""
        if self.after is None or not self.signal:
            return None
        return math.sqrt(self.after / self.signal)


def solve(
    linear: Linear,
    moments: InputMoments | None,
    options: Quantize,
    safe: bool,
    step: float = 1.0,
    bits: int | None = None,
    block: int | None = None,
    is_read: bool = False,
) -> Solved:
    """Solve for the codes of one layer. Without moments: nearest rounding, the bias unchanged.

    safe: no pair of products of u8 with the codes may overflow 16 bits. step: the scale of the layer's input, with
    which its bias must fit 32 bits. block: the number of inputs that share a scale; None for all. is_read: the weight's
    rows are also results, as of a table: their own error counts, too, by `TABLE_SHARE`.
    """
    width = bits or BITS[options.weight_type]
    known = moments if moments is not None and moments.count else None
    if block is not None and width < 8:
        return _solve_blocks(linear, known, options, width, block, is_read)
    if known is None and linear.groups == 1 and options.per_channel:
        return _solve_nearest(linear, options, safe, step, width, block)
    rows = linear.rows().astype(np.float32)
    scale, low, high = _scales(linear, rows, linear.bias, options, safe, step, width, block)
    if moments is None or known is None:
        codes = nearest_codes(rows, spread(scale, rows.shape[2], block), low, high)
        return Solved(Codes(codes, scale, linear.bias, width, worst_pair(codes), block), None, None)
    plain, depth = scale.copy(), rows.shape[2]
    is_narrow = options.mode == "static" and width < 8 and options.per_channel and block is None
    is_single = width == 8 and rows.shape[:2] == (linear.groups, 1) and linear.groups > 1 and block is None
    matrices = [moments.covariance_of(g, centred=linear.takes_bias) for g in range(linear.groups)]
    whole = [matrix for matrix in matrices if isinstance(matrix, np.ndarray)]
    if is_narrow and options.rounding:
        codes, scale = grouped_codes(rows, matrices, width)
    elif options.rounding and is_single and whole:
        codes = single_row_codes(rows[:, 0], scale[:, 0, 0], low[:, 0], high[:, 0], np.stack(whole))[:, None]
    else:
        codes = np.empty(rows.shape, np.int8)
        for g, matrix in enumerate(matrices):
            if options.per_channel and width < 8 and not is_narrow:
                scale[g, :, 0] = _clipped(rows[g], scale[g, :, 0], low[g], high[g], matrix)
            round_ = partial(best_codes, covariance=matrix) if options.rounding else nearest_codes
            codes[g] = round_(rows[g], spread(scale[g], depth, block), low[g], high[g])
    before = after = signal = 0.0
    shifts = list[Array]()
    for g, matrix in enumerate(matrices):
        for part in parts_of(rows[g]):
            given, steps = rows[g, part], spread(plain[g, part], depth, block)
            signal += objective(given, matrix)
            before += objective(given - nearest(given, steps, low[g, part], high[g, part]) * steps, matrix)
            error = given - codes[g, part] * spread(scale[g, part], depth, block)
            after += objective(error, matrix)
            shifts.append(error @ moments.mean[g])
    bias = linear.bias
    if options.correct_bias and linear.takes_bias:
        bias = _shifted(bias, np.concatenate(shifts))
    return Solved(Codes(codes, scale, bias, width, worst_pair(codes), block), before, after, signal)


def layer_codes(
    linear: Linear, rows: Array, covariances: Array, options: Quantize, target: str, step: float, bits: int
) -> Codes:  # fmt: skip
    """Codes of least error for rows f32 [G, N, K], by the covariances f32 [G, K, K]; the layer's own bias."""
    safe = pair_safety(options, target)
    scale, low, high = _scales(linear, rows, linear.bias, options, safe, step, bits, None)
    if bits < 8 and options.per_channel:
        codes, scale = grouped_codes(rows, [*covariances], bits)
    elif rows.shape[1] == 1:
        single = (rows[:, 0], scale[:, 0, 0], low[:, 0], high[:, 0])
        codes = single_row_codes(*single, covariances)[:, None]
    else:
        full = np.broadcast_to(scale, rows.shape)
        codes = np.stack([best_codes(*of_group) for of_group in zip(rows, full, low, high, covariances)])
    return Codes(codes, scale, linear.bias, bits, worst_pair(codes))


def _solve_nearest(linear: Linear, options: Quantize, safe: bool, step: float, width: int, block: int | None) -> Solved:
    """Nearest rounding with a scale an output or a block, some rows at a time."""
    rows = linear.rows_of(linear.stored_weight)
    codes, scales = np.empty(rows.shape, np.int8), list[Array]()
    for at, part in in_parts(rows[0]):
        to = at + len(part)
        bias = None if linear.bias is None else linear.bias[at:to]
        scale, low, high = _scales(linear, part[None], bias, options, safe, step, width, block)
        codes[0, at:to] = nearest_codes(part[None], spread(scale, rows.shape[2], block), low, high)[0]
        scales.append(scale)
    worst = worst_pair(codes) if options.mode != "weights" else 0  # stored weights enter no integer products
    return Solved(Codes(codes, np.concatenate(scales, axis=1), linear.bias, width, worst, block), None, None)


def _solve_blocks(
    linear: Linear, moments: InputMoments | None, options: Quantize, width: int, block: int, is_read: bool
) -> Solved:  # fmt: skip
    """Codes of less than 8 bits in blocks: the grid of least error, by the inputs' variance where there are data."""
    rows = linear.rows_of(linear.stored_weight)
    depth = rows.shape[2]
    if moments is None:
        codes = np.empty(rows.shape, np.int8)
        grid = best_grid(rows[0], None, width, block, codes[0])
        zeros = None if grid.zero is None else grid.zero[None]
        return Solved(Codes(codes, grid.scale[None], linear.bias, width, 0, block, zeros), None, None)
    weight, matrix = linear.rows()[0], moments.covariance_of(0, centred=linear.takes_bias)
    parts = [*parts_of(weight)]  # a head of 262,144 words is 0.7 GB
    counted, share, signal, mean = matrix, 0.0, sum(objective(weight[part], matrix) for part in parts), moments.mean[0]
    if is_read:  # J is then the error of the products, and of the rows themselves in proportion
        share = TABLE_SHARE * signal / max(_squares(weight), LEAST)
        counted = ridged(matrix, np.float32(share))
    counted = ridged(counted, _unseen(counted))
    grid = best_grid(weight, counted.diagonal(), width, block)
    plain = np.concatenate([plain_scale(weight[part], width, block) for part in parts])
    before = limit = 0.0
    for part in parts:
        wide = spread(plain[part], depth, block)
        rounded = weight[part] - nearest(weight[part], wide, *_bounds(weight[part], width)) * wide
        cost = objective(rounded, matrix)
        before, limit = before + cost, limit + cost + share * _squares(rounded)
    known, is_far = counted if options.rounding else None, is_polished(weight, POLISHED_BLOCKS)
    factor = None if known is None else damped_factor(known)
    codes = np.empty(weight.shape, np.int8)
    for scale, zero in ((grid.scale.copy(), grid.zero), (plain, None)):
        after, counts, shifts = 0.0, 0.0, list[Array]()
        for part in parts:
            origin = None if zero is None else zero[part]
            codes[part], scale[part], error = _round_blocks(
                weight[part], scale[part], origin, block, _bounds(weight[part], width), known, factor, is_far
            )
            cost = objective(error, matrix)
            after, counts = after + cost, counts + cost + share * _squares(error)
            shifts.append(error @ mean)
        if counts <= limit:
            break  # the diagonal that chose the grid may mislead where inputs go together
    bias = linear.bias
    if options.correct_bias and linear.takes_bias:
        bias = _shifted(bias, np.concatenate(shifts))
    found, zeros = codes[None], None if zero is None else zero[None]
    return Solved(Codes(found, scale[None], bias, width, worst_pair(found), block, zeros), before, after, signal)


def _bounds(rows: Array, width: int) -> tuple[Array, Array]:
    """The least and the greatest code of each weight, f32 [N, K]."""
    least, most = _ends(width)
    return np.full(rows.shape, least, np.float32), np.full(rows.shape, most, np.float32)


def _unseen(covariance: Covariance) -> np.float32:
    """`UNSEEN` of the squared mean standard deviation."""
    deviation = np.sqrt(np.maximum(covariance.diagonal(), 0)).mean(dtype=np.float64)
    return np.float32(max(UNSEEN * deviation**2, 1e-12))


def _ends(width: int) -> tuple[int, int]:
    """The least and the greatest code."""
    return -(1 << (width - 1)), (1 << (width - 1)) - 1


def _squares(array: Array) -> float:
    """The sum of squares."""
    return float(np.einsum("nk,nk->", array, array, dtype=np.float64))


def _round_blocks(
    rows: Array, scale: Array, zero: Array | None, block: int, bounds: tuple[Array, Array], matrix: Covariance | None,
    factor: Factor | None, is_far: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Codes of rows [N, K] on a grid of blocks, to the nearest without a covariance; the scales refitted to them; and
    the error w − s (q − z). is_far: scales and codes are improved in turn behind GPTQ."""
    depth = rows.shape[1]
    origin = np.float32(0) if zero is None else spread(zero.astype(np.float32), depth, block)
    full = spread(scale, depth, block)
    moved = rows + origin * full  # s (q − z) is nearest to w where s q is nearest to w + s z
    if matrix is None:
        codes = nearest(moved, full, *bounds)
        return codes, scale, moved - codes * full
    codes = spread_codes(moved, full, *bounds, matrix, factor).astype(np.float32)
    if is_far:
        damped = ridged(matrix, damping(matrix))
        scale = fitted_scale(rows, codes - origin, scale, damped, block)
        full = spread(scale, depth, block)
        moved = rows + origin * full
        codes = descend(moved, codes, full, *bounds, damped)
    return codes, scale, moved - codes * full


def _shifted(bias: Array | None, shift: Array) -> Array:
    """The bias with what an error takes from the results."""
    return np.asarray(shift if bias is None else bias + shift, np.float32)


def _scales(
    linear: Linear, rows: Array, bias: Array | None, options: Quantize, safe: bool, step: float, width: int,
    block: int | None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Scale [G, N, B] for B blocks of inputs, and bounds [G, N, K]; of some rows, with the bias of these."""
    scale, low, high = weight_scale(rows, width, safe and not linear.is_depthwise)
    if options.reduce_range and width == 8:
        low, high = np.maximum(low, -64), np.minimum(high, 64)
        scale = np.maximum(scale, np.abs(rows).max(axis=-1) / np.float32(64))
    if bias is not None:
        scale = np.maximum(scale, bias_room(bias, step).reshape(scale.shape))
    if not options.per_channel:
        scale = np.full_like(scale, scale.max())
    if block is None:
        return scale[..., None], low, high
    return plain_scale(rows, width, block), low, high


def _clipped(rows: Array, scale: Array, low: Array, high: Array, matrix: Covariance) -> Array:
    """The scales [N] of one group, clipped where that costs least."""
    variance = matrix.diagonal() + damping(matrix)
    return np.concatenate([clipped_scale(rows[p], scale[p], low[p], high[p], variance) for p in parts_of(rows)])


def pair_safety(options: Quantize, target: str) -> bool:
    """Whether codes must be safe from 16-bit overflow: wherever onnxruntime runs them, unless the caller declines.

    graphopt's own kernels are exact; u8 weights take onnxruntime's exact path; mode weights has no u8 activations.
    """
    if options.reduce_range is not None or options.mode == "weights":
        return False
    return target != "graphopt" and options.weight_type != "uint8" and not is_exact_here(options, target)


def is_exact_here(options: Quantize, target: str) -> bool:
    """Whether onnxruntime on this processor sums products in 32 bits (VNNI), and dynamic results are for it alone.

    A portable file runs on any processor: there weights respect the 16-bit limit.
    """
    return target == "onnxruntime" and options.mode == "dynamic" and select_level().dot == "vpdpbusd"


@dataclass(frozen=True, slots=True)
class Certificate:
    """Whether sums of two u8×s8 products of a layer are exact in 16 bits, and the reason."""

    is_exact: bool
    reason: str

    def __str__(self) -> str:
        return f"exact: {self.reason}" if self.is_exact else self.reason


FLOAT_PRODUCTS = Certificate(True, "float products")
NO_PAIRS = Certificate(True, "no pairs")


def pair_certificate(worst: int, options: Quantize, target: str = "portable") -> Certificate:
    """The certificate of a layer with codes whose worst pair is `worst`, for a target."""
    if options.weight_type == "uint8":
        return Certificate(True, "u8 weights")  # onnxruntime widens products of u8 with u8 to 32 bits
    if worst <= PAIR_LIMIT:
        return Certificate(True, f"{255 * worst} ≤ 32767")
    if is_exact_here(options, target):
        return Certificate(True, "VNNI, as this processor has; may saturate on AVX2")
    return Certificate(False, "may saturate on AVX2")
