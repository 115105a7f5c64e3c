"""Ranges of activations by what they cost the results: steps of a wide range against elements that a narrow one cuts.

To first order a result y changes by Σ g δ, where g = ∂⟨s, y⟩/∂x for random signs s, and δ is the error of an activation
x. Errors of rounding are independent, of variance Δ² / 12; what is cut at an end adds up with its sign:

    E = Δ² / 12 · Σ g² [x ≠ 0] + (Σ g (clip(x) − x))²        Δ = (b · high − a · low) / 255

for shares a and b of the ends, over a whole tensor or each of its channels. The same few backward passes serve all
activations. Nagel et al. 2021 (A White Paper on Neural Network Quantization) choose ranges by the squared error of x
itself, as if every element mattered alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from ....compress.context import StageContext
from ....errors import GraphoptError
from ....gradient.prepare import prepare
from ....gradient.project.projector import results_of
from ....gradient.reverse import gradients
from ....gradient.tensor import Tensor, Writer
from ....ir import Array, Model, Node, Port, TensorType, Value
from ....kernels.tensors.quantization import Quantization
from ....machine.sessions import open_session, session_options
from ....onnx_io import to_proto
from ..candidates.assignment import Assignment
from ..candidates.calibrated_model import CalibratedModel
from ..candidates.units import useful
from ..emit.mapped_clone import mapped_clone
from ..emit.qdq import build
from ..numerics.grids import activation_grid
from ..options import Quantize

SHARES = np.array([1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.52, 0.44, 0.36, 0.28])
"""Shares of each end of a range that are tried. A choice: the cost is flat at its least."""
SAMPLES = 16
"""Samples whose slopes are taken, the last ones: results are judged on the first, so that where there are enough
nothing is judged on what it was chosen by. A bound on time; `python -m tests.bench.below8 --int8` shows the effect."""

Range = tuple[Array, Array]
"""The ends (low, high) ∋ 0, f64 [C] by channel along axis 1, or [1]."""


def with_output_ranges(calibrated: CalibratedModel, context: StageContext) -> CalibratedModel:
    """The calibrated model with ranges of activations with one scale that cost its results least, where these then come
    closer to the reference's."""
    assignment = calibrated.assignment.with_units(useful(calibrated.assignment.units))
    narrowed = narrowed_grids(assignment, context, last_feeds(calibrated.options, context))
    if narrowed is assignment:
        return calibrated
    before, after = (context.quality.fidelity(build(a)).sqnr_db for a in (assignment, narrowed))
    if after <= before:
        return calibrated
    return replace(calibrated, assignment=replace(calibrated.assignment, grids=narrowed.grids))


def last_feeds(options: Quantize, context: StageContext) -> list[dict[str, Any]]:
    """The samples whose slopes are taken."""
    return list(deque(islice(iter(context.calibration), options.samples), SAMPLES))


def narrowed_grids(assignment: Assignment, context: StageContext, feeds: Sequence[dict[str, Any]]) -> Assignment:
    """The assignment with narrower grids of activations with one scale; those that share a grid keep one, by the sum of
    their costs. Itself where there is nothing to narrow."""
    members: dict[int, list[Value]] = {}
    for value in dict.fromkeys(v for u in assignment.units for v in (*u.inputs, *u.outputs)):
        if value not in assignment.channels and value not in assignment.narrow:
            members.setdefault(id(assignment.grids[value]), []).append(value)
    ranges = {v: _ends(assignment.grids[v]) for values in members.values() for v in values}
    sums = output_sums(assignment.model, ranges, feeds, context.seed)
    grids, signed = dict(assignment.grids), assignment.options.signed
    for values in members.values():
        if not all(v in sums for v in values):
            continue
        (low,), (high,) = ranges[values[0]]
        cost = np.sum([costs(sums[v], ranges[v], signed)[..., 0] for v in values], axis=0)
        a, b = np.unravel_index(cost.argmin(), cost.shape)
        grid = activation_grid(float(low * SHARES[a]), float(high * SHARES[b]), signed)
        if (a or b) and _biases_fit(assignment, values, grid):
            grids.update((v, grid) for v in values)
    return assignment if grids == assignment.grids else replace(assignment, grids=grids)


def narrowed_ranges(
    model: Model, ranges: Mapping[Value, Range], feeds: Sequence[dict[str, Any]], seed: int, signed: bool
) -> dict[Value, Range]:
    """The ranges at the shares that cost the results least; as they are where there are no slopes. All channels of an
    activation keep the same shares of their ends: alone each has too few elements to tell."""
    found = dict(ranges)
    for value, sums in output_sums(model, ranges, feeds, seed).items():
        low, high = ranges[value]
        cost = costs(sums, ranges[value], signed).sum(axis=2)
        a, b = np.unravel_index(cost.argmin(), cost.shape)
        found[value] = low * SHARES[a], high * SHARES[b]
    return found


def _ends(grid: Quantization) -> Range:
    low, high = (np.array([(code - grid.zero_point) * grid.scale]) for code in (grid.low, grid.high))
    return low, high


def _biases_fit(assignment: Assignment, values: Sequence[Value], grid: Quantization) -> bool:
    """Whether the biases of layers that read the values still fit 32 bits."""
    readers = (u for u in assignment.units if u.linear is not None and u.inputs and u.inputs[0] in values)
    return all(assignment.codes[u.node].holds_bias(grid.scale) for u in readers)


@dataclass(slots=True)
class Sums:
    """Over samples and channels: energy Σ g² [x ≠ 0], [C]; products of what shares of the ends cut: of the low end with
    itself, [A, C], of both, [A, B, C], of the high end with itself, [B, C]."""

    energy: Array
    low: Array
    both: Array
    high: Array

    @classmethod
    def zeros(cls, channels: int) -> Sums:
        """Of no sample."""
        n = len(SHARES)
        energy, low, both, high = (np.zeros((*shape, channels)) for shape in ((), (n,), (n, n), (n,)))
        return cls(energy, low, both, high)

    def add(self, x: Array, g: Array, ends: Range) -> None:
        """Add a sample x with its slopes g, f32 in one shape."""
        channels = len(ends[0])
        rows, slope = (np.moveaxis(a, 1, 0).reshape(channels, -1) if channels > 1 else a.reshape(1, -1) for a in (x, g))
        self.energy += np.einsum("cp,cp->c", slope * (rows != 0), slope, dtype=np.float64)
        below, above = (
            _cut(rows, slope, ends[0], np.less, np.maximum), _cut(rows, slope, ends[1], np.greater, np.minimum)
        )  # fmt: skip
        self.low += below**2
        self.both += below[:, None] * above[None]
        self.high += above**2


def costs(sums: Sums, ends: Range, signed: bool) -> Array:
    """E for the shares [A, B] of the low and the high end of codes of 8 bits, f64 [A, B, C]."""
    low, high = SHARES[:, None] * ends[0], SHARES[:, None] * ends[1]
    width = 2 * np.maximum(-low[:, None], high[None]) if signed else high[None] - low[:, None]
    cut = sums.low[:, None] + 2 * sums.both + sums.high[None]
    return np.asarray((width / 255) ** 2 / 12 * sums.energy + cut)


def _cut(rows: Array, slope: Array, end: Array, beyond: Any, kept: Any) -> Array:
    """Σ g (clip(x) − x) at one end for each share, [A, C]; only elements beyond the nearest are looked at."""
    found = np.flatnonzero(beyond(rows, (end * SHARES[-1]).astype(np.float32)[:, None]))
    at, x, g = found // max(rows.shape[1], 1), rows.reshape(-1)[found], slope.reshape(-1)[found]
    return np.stack([np.bincount(at, kept((end * s)[at] - x, 0) * g, len(end)) for s in SHARES])


def output_sums(
    model: Model, ranges: Mapping[Value, Range], feeds: Sequence[dict[str, Any]], seed: int
) -> dict[Value, Sums]:
    """The sums of each activation, by channel where its range has several. {} where a node has no gradient or a sample
    does not run."""
    found: dict[Value, Sums] = {}
    try:
        for value, x, g in slopes(model, list(ranges), feeds, seed):
            found.setdefault(value, Sums.zeros(len(ranges[value][0]))).add(x, g, ranges[value])
    except GraphoptError:
        return {}
    return {value: sums for value, sums in found.items() if np.isfinite(sums.energy).all()}


def slopes(
    model: Model, values: Sequence[Value], feeds: Iterable[dict[str, Any]], seed: int
) -> Iterator[tuple[Value, Array, Array]]:
    """(v, x, ∂⟨s, y⟩/∂x) of each value on each sample, for random signs s over the norm of each result y.

    ModelError where a node has no gradient, InputError where a sample does not run.
    """
    clone = mapped_clone(model)
    graph, results = clone.model.graph, [port.name for port in model.graph.ports]
    taps = [Node("Identity", [clone.values[v]], None, [v.type]) for v in values]
    for tap in taps:
        graph.append(tap)
    names = [f"graphopt.tap{k}" for k in range(len(taps))]
    more = [Port(name, tap.output.type) for name, tap in zip(names, taps)]
    graph.set_outputs([*graph.outputs, *(tap.output for tap in taps)], [*graph.ports, *more])
    ready = prepare(clone.model, own=True)
    graph, writer = ready.graph, Writer(ready.graph)
    by_name = {port.name: value for port, value in zip(graph.ports, graph.outputs)}
    floats = [n for n in results if isinstance(t := by_name[n].type, TensorType) and t.dtype.is_float]
    seeds = {by_name[n]: Tensor(writer, graph.add_input(Value(by_name[n].type, f"{n}.cotangent"))) for n in floats}
    tapped = [node.inputs[0] for n in names if (node := by_name[n].producer) is not None]
    found = gradients(writer, seeds, [v for v in tapped if v is not None])
    made = [(v, n, by_name[n], g.value) for v, n, g in zip(values, names, found) if g is not None]
    outputs = [(n, x) for _, n, x, _ in made] + [(f"{n}.gradient", g) for _, n, _, g in made]
    own = [writer.node("Identity", Tensor(writer, v)).value for _, v in outputs]
    graph.set_outputs(own, [Port(n, v.type) for (n, _), v in zip(outputs, own)])
    session = open_session(to_proto(ready).SerializeToString(), session_options(folder=ready.folder))
    plain = open_session(to_proto(model).SerializeToString(), session_options(folder=model.folder))
    rng, given = np.random.default_rng(seed), [v.name for v in model.graph.inputs if v.default is None]
    for feed in feeds:
        arrays = {name: np.asarray(feed[name]) for name in given}
        signs = {
            f"{n}.cotangent": (rng.choice([-1.0, 1.0], y.shape) / (float(np.linalg.norm(y)) or 1.0)).astype(y.dtype)
            for n, y in zip(floats, results_of(plain, floats, arrays))
        }
        wanted = [n for n, _ in outputs]
        here = dict(zip(wanted, results_of(session, wanted, {**arrays, **signs})))
        for value, n, _, _ in made:
            yield value, here[n], here[f"{n}.gradient"]


BINS = 4096
"""Bins of a histogram: 256 to a code of 4 bits."""


def output_histograms(
    model: Model, ranges: Mapping[Value, Range], feeds: Sequence[dict[str, Any]], seed: int
) -> dict[Value, tuple[Array, Array]]:
    """By activation, whose range is one: centres f32 [n] of its elements, and Σ g² of those near, f64 [n]. {} where
    slopes are not known."""
    sums: dict[Value, Array] = {}
    try:
        for value, x, g in slopes(model, list(ranges), feeds, seed):
            (low,), (high,) = ranges[value]
            at = np.clip((x.reshape(-1) - low) * (BINS / max(high - low, 1e-30)), 0, BINS - 1).astype(np.int64)
            more = np.bincount(at, np.square(g.reshape(-1), dtype=np.float64), BINS)
            sums[value] = sums.get(value, 0.0) + more
    except GraphoptError:
        return {}
    centres = (np.arange(BINS) + 0.5) / BINS
    found = {}
    for value, total in sums.items():
        low, high = ranges[value]
        kept = total > 0
        found[value] = (low + centres[kept] * (high - low)).astype(np.float32), total[kept]
    return found
