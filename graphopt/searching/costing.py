"""The cost tables of a search, from uniform models: layers are measured in place, with all nodes fused into them.

A layer's time under a word is its share of the time of the model in which every layer has that word. Between widths it
is interpolated along the remaining multiply-accumulates, through models with every group narrowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from ..compress.choices import FLOAT16, FLOAT32
from ..ir import Array
from .plan import Decision
from .structure import Layer, Structure
from .tables import CostTable, Factor, Tables
from .words import STATIC

BYTES = {FLOAT16: 2.0, STATIC: 1.0, "dynamic": 1.0, "weights8": 1.0, "weights4": 0.5 + 4 / 32, FLOAT32: 4.0}
"""Bytes of a parameter; 4-bit weights have a float32 scale for each 32 parameters."""
_ROUNDED = {FLOAT16: 1e-7, "weights4": 256.0}
"""The noise power of half precision, 2^-11 relative and uniform; and of four bits relative to eight, (2^4)²."""
_BORDERS: dict[str, tuple[str, ...]] = {
    "conversion": (STATIC,), "half": (FLOAT16,), "layout": ("weights8", "weights4", "dynamic"),
}  # fmt: skip
"""Words of layers at whose borders to other layers a runtime adds operators: QuantizeLinear and its inverse; Cast;
conversions of the blocked layout, used by convolutions whose weights are floats when the runtime loads them."""
_NOISE = {"latency": 0.02, "noise": 0.25, "size": 0.005}
_DOUBT = {"latency": (0.25, 0.2), "noise": (1.5, 1.0), "size": (0.1, 0.1)}
_DOUBTS = dict.fromkeys(_BORDERS, (1.0, 0.5))
"""_NOISE, _DOUBT and _DOUBTS: standard deviations, as logarithms, of measurements and of table entries (of a kind, of a
layer; largest at borders: the operators that a runtime adds there depend on both sides); `python -m tests.bench.search`
prints the resulting errors of predictions."""
_CALL = 1e-6
"""Seconds of overhead per operator call in onnxruntime (the least of rapidocr-cls)."""
_LEAST = 0.02
"""The least share of a layer's time that narrowing leaves: the call overhead. A choice."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """A measured uniform model: all layers have one word, and all groups may be narrowed.

    latency: as a share of the original's. shares: each layer's share of that time, "" for the rest. layers: the actual
    word of each layer. channels: the channels kept of each group. errors: the relative error of the results with one
    layer alone changed.
    """

    word: str
    latency: float
    shares: Mapping[str, float]
    layers: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)


def tables_of(
    structure: Structure, uniform: Sequence[Uniform], file_bytes: int, conversion: float, run: float
) -> Tables:
    """The cost tables of a model. uniform: the float model comes first. conversion: seconds to convert an element
    between float and codes. run: seconds of one run of the original."""
    by_word = {one.word: one for one in uniform if not one.channels}
    decisions, layer_at, group_at = _decisions(structure, by_word)
    base = by_word[FLOAT32]
    latency: list[Factor] = []
    size: list[Factor] = []
    noise: list[Factor] = []
    narrowed = [one for one in uniform if one.channels]
    for place, layer in enumerate(structure.layers):
        if place not in layer_at:
            continue
        decision = decisions[layer_at[place]]
        ends = [group_at[end] for end in dict.fromkeys((layer.reads, layer.writes)) if end in group_at]
        over = (layer_at[place], *ends)
        times = np.array([_time(layer, word, by_word, structure) for word in decision.choices])
        left = [_shares_left(decisions[end]) for end in ends]
        latency.append(Factor(over[:1], times, decision.choices))
        if left:
            saved = _saved(times, left, layer, decision.choices, by_word, narrowed, structure)
            latency.append(Factor(over, saved, tuple(f"narrowed {word}" for word in decision.choices)))
        stored = np.array([layer.parameters * BYTES[word] for word in decision.choices])
        size.append(Factor(over, _outer(stored, left), decision.choices))
        errors = np.array([_noise(layer, word, by_word) for word in decision.choices])
        noise.append(Factor(over[:1], errors, decision.choices))
    for number, at in group_at.items():
        kinds = ("", *("channels",) * (len(decisions[at].choices) - 1))
        noise.append(Factor((at,), np.array(structure.groups[number].losses), kinds))
    latency += _crossings(structure, decisions, layer_at, conversion / run, _CALL / run)
    stored_now = sum(layer.parameters * BYTES[FLOAT32] for k, layer in enumerate(structure.layers) if k in layer_at)
    rest = max(
        0.0, base.latency - sum(_spent(layer, base) for k, layer in enumerate(structure.layers) if k in layer_at)
    )
    bases = {"latency": rest, "noise": 0.0, "size": max(0.0, file_bytes - stored_now)}
    built = {"latency": latency, "noise": noise, "size": size}
    made = {name: CostTable(bases[name], tuple(built[name]), _NOISE[name], _DOUBT[name], _DOUBTS) for name in built}
    return Tables(decisions, made["latency"], made["noise"], made["size"])


def _decisions(
    structure: Structure, by_word: Mapping[str, Uniform]
) -> tuple[tuple[Decision, ...], dict[int, int], dict[int, int]]:
    """The decisions, and the decision's index of each layer and of each group with a choice."""
    decisions: list[Decision] = []
    layer_at: dict[int, int] = {}
    for root in sorted({layer.tied for layer in structure.layers}):
        places = [k for k, layer in enumerate(structure.layers) if layer.tied == root]
        words = [
            word for word, one in by_word.items()
            if word != FLOAT32 and all(one.layers.get(structure.layers[k].name) == word for k in places)
        ]  # fmt: skip
        if not words and all(structure.layers[k].reads < 0 and structure.layers[k].writes < 0 for k in places):
            continue
        layer_at.update(dict.fromkeys(places, len(decisions)))
        names = tuple(structure.layers[k].name for k in places)
        decisions.append(Decision(names[0], (FLOAT32, *words), names))
    group_at: dict[int, int] = {}
    for number, group in enumerate(structure.groups):
        if len(group.widths) > 1:
            group_at[number] = len(decisions)
            words = [str(width) for width in group.widths]
            decisions.append(Decision(f"channels of {group.name}", tuple(words), (group.name,), True))
    return tuple(decisions), layer_at, group_at


def _spent(layer: Layer, one: Uniform) -> float:
    """The time of a layer and its followers in a uniform model, as a share of the original's."""
    return one.latency * sum(one.shares.get(name, 0.0) for name in (layer.name, *layer.followers))


def _time(layer: Layer, word: str, by_word: Mapping[str, Uniform], structure: Structure) -> float:
    """The layer's time in the uniform model of a word, with its part of the excess over the float model outside these
    layers: conversions, mostly."""
    one, base = by_word[word], by_word[FLOAT32]
    own = _spent(layer, one)
    if word == FLOAT32:
        return own
    changed = [other for other in structure.layers if one.layers.get(other.name) == word]
    among = sum(_spent(other, one) for other in changed)
    unchanged = base.latency - sum(_spent(other, base) for other in changed)
    spare = one.latency - among - unchanged
    return max(0.0, own + spare * own / among) if among else own


def _noise(layer: Layer, word: str, by_word: Mapping[str, Uniform]) -> float:
    """The noise of the results with this layer alone changed, as a share of their power; where unmeasured, derived from
    the word that was measured."""
    if word == FLOAT32:
        return 0.0
    known = by_word[word].errors.get(layer.name)
    if known is not None:
        return known**2
    eight = next((one.errors[layer.name] for one in by_word.values() if layer.name in one.errors), 1e-2)
    return _ROUNDED["float16"] if word == "float16" else eight**2 * (_ROUNDED["weights4"] if word == "weights4" else 1)


def _shares_left(width: Decision) -> Array:
    counts = np.array([float(word) for word in width.choices])
    return np.asarray(counts / counts[0])


def _outer(first: Array, rest: Sequence[Array]) -> Array:
    total = first
    for one in rest:
        total = np.multiply.outer(total, one)
    return np.asarray(total)


def _saved(
    times: Array, left: Sequence[Array], layer: Layer, words: Sequence[str], by_word: Mapping[str, Uniform],
    narrowed: Sequence[Uniform], structure: Structure,
) -> Array:  # fmt: skip
    """The change of a layer's times with the widths of its input and output, by word and widths: mostly negative."""
    costs = np.zeros((len(times), *(len(one) for one in left)))
    macs = _outer(np.ones(1), left)[0]
    for k, word in enumerate(words):
        known = _staircase(layer, word, by_word, narrowed, structure)
        for at in product(*(range(len(one)) for one in left)):
            costs[k][at] = times[k] * (np.interp(macs[at], known[0], known[1]) - 1.0)
    return costs


def _staircase(
    layer: Layer, word: str, by_word: Mapping[str, Uniform], narrowed: Sequence[Uniform], structure: Structure
) -> tuple[list[float], list[float]]:
    """Remaining shares of a layer's multiply-accumulates, and of its time, in the narrowed models: the integer models
    for integers, else the float models. Below the narrowest width, time extrapolates from the last two points."""
    kind = STATIC if word == STATIC and any(one.word == STATIC for one in narrowed) else FLOAT32
    base = by_word[kind]
    whole = _spent(layer, base)
    points = {1.0: 1.0}
    for one in narrowed:
        if one.word != kind or not whole:
            continue
        left = 1.0
        for end in dict.fromkeys((layer.reads, layer.writes)):
            if end >= 0:
                group = structure.groups[end]
                left *= one.channels.get(group.name, group.size) / group.size
        if left < 1.0:
            points[left] = float(np.clip(_spent(layer, one) / whole, _LEAST, 1.5))
    (low, at), (high, then) = [*sorted(points.items()), (2.0, 2.0)][:2]
    points[0.0] = float(np.clip(at - low * (then - at) / (high - low), _LEAST, at))
    return [*sorted(points)], [points[m] for m in sorted(points)]


def _crossings(
    structure: Structure, decisions: Sequence[Decision], layer_at: Mapping[int, int], conversion: float, call: float
) -> list[Factor]:
    """The time of operators that a runtime adds between two neighbors of which only one is on integers, in half
    precision, or on stored weights: an operator and its inverse, estimated as conversions until measured."""
    found: dict[tuple[int, int], float] = {}
    for writer, reader, elements in structure.edges:
        a, b = layer_at.get(writer), layer_at.get(reader)
        if a is not None and b is not None and a != b:
            found[a, b] = found.get((a, b), 0.0) + elements * conversion + 2 * call
    factors = []
    for (a, b), cost in found.items():
        first, second = decisions[a].choices, decisions[b].choices
        for kind, words in _BORDERS.items():
            differs = np.array([[(one in words) != (other in words) for other in second] for one in first], float)
            if differs.any():
                factors.append(Factor((a, b), differs * cost, (kind,) * len(first)))
    return factors
