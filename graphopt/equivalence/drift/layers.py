"""Layer-by-layer comparison: runs two models side by side and measures the drift of each matched value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from ...ir import Array
from ..feeds import Feeds
from ..metrics import same_specials
from ..runnable import RunnableModel
from ..tapped import TappedSession
from .match import Counterpart, computed_values, counterparts

_HELD = 64 << 20
"""Bytes of inner values held at once on each side: less than the weights of most models to inspect."""
_FIRST = 8
"""Values fetched by the first run of each model; their sizes decide how many the following runs fetch."""
_MOST = 256
"""The most values fetched by one run."""
_UNLIKE, _ALIKE = 0.5, 20.0
"""Thresholds of a wrong match by name: a value with a cosine below `_UNLIKE`, while a value computed from it agrees by
`_ALIKE` dB: noise as large as the signal does not shrink to 1 % downstream."""


@dataclass(frozen=True, slots=True)
class LayerDrift:
    """One value of the original and its counterpart in the candidate, over all samples.

    name, op: the original's value and the operator that computes it; candidate: the name in the candidate. sqnr:
    10 log10(Σ original² / Σ (original − candidate)²) in dB, infinite for equal values; before: the lowest SQNR of the
    nearest matched values upstream (infinite for the model's inputs). cosine in −1..1. is_output: the model returns the
    value. note: a remark on the figures, or "".
    """

    name: str
    op: str
    candidate: str
    sqnr: float
    before: float
    cosine: float
    is_output: bool = False
    note: str = ""

    @property
    def added(self) -> float:
        """The noise that this step adds, as a share of the value's energy; 0 if it is not noisier than `before`."""
        return max(0.0, _share(self.sqnr) - _share(self.before))

    @property
    def remarks(self) -> str:
        """Remarks: an output of the model, differing special elements, another name in the candidate."""
        suffix = self.candidate.removeprefix(self.name)
        other = "" if not suffix else f"as …{suffix}" if suffix != self.candidate else f"as {self.candidate}"
        return "; ".join(part for part in ("result" if self.is_output else "", self.note, other) if part)


@dataclass(frozen=True, slots=True)
class Drift:
    """The answer of `graphopt.compare_layers`.

    layers: matched values in the original's order. unmatched: the original's other computed values, by name, with the
    reason. samples: their number; made_up: whether they are synthetic.
    """

    layers: tuple[LayerDrift, ...]
    unmatched: Mapping[str, str] = field(default_factory=dict)
    samples: int = 0
    made_up: bool = False

    @property
    def steps(self) -> tuple[LayerDrift, ...]:
        """The values that add noise, most noise first."""
        return tuple(sorted((layer for layer in self.layers if layer.added > 0), key=lambda layer: -layer.added))

    @property
    def inner(self) -> int:
        """The number of matched values that are not outputs of the model."""
        return sum(not layer.is_output for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; infinities as None."""
        rows = [
            {
                "name": x.name, "op": x.op, "candidate": x.candidate, "sqnr": _finite(x.sqnr),
                "before": _finite(x.before), "cosine": x.cosine, "is_output": x.is_output, "note": x.note,
            }
            for x in self.layers
        ]  # fmt: skip
        return {"layers": rows, "unmatched": dict(self.unmatched), "samples": self.samples, "made_up": self.made_up}


_HUGE = 1e30
"""The magnitude from which an element counts as a mask value, which would outweigh all others; as in
`graphopt.calibration.masks`."""


@dataclass(slots=True)
class _Sums:
    """Energies over all samples of one pair of values."""

    signal: float = 0.0
    other: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    specials: bool = True
    is_same_shape: bool = True

    def add(self, a: Array, b: Array) -> None:
        if not same_specials(a, b):
            self.specials = False
        x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
        finite = (np.abs(x) < _HUGE) & (np.abs(y) < _HUGE)  # NaN is neither
        if not finite.all():
            x, y = x[finite], y[finite]
        gap = x - y
        self.signal += float(x @ x)
        self.other += float(y @ y)
        self.noise += float(gap @ gap)
        self.product += float(x @ y)

    @property
    def sqnr(self) -> float:
        if self.noise == 0.0:
            return math.inf
        return 10.0 * math.log10(self.signal / self.noise) if self.signal > 0.0 else -math.inf

    @property
    def cosine(self) -> float:
        lengths = math.sqrt(self.signal) * math.sqrt(self.other)
        if lengths == 0.0:
            return 1.0 if self.signal == self.other else 0.0
        return max(-1.0, min(1.0, self.product / lengths))


Found = dict[str, tuple[Counterpart, _Sums]]
"""The counterpart of each matched value, and the sums of the two."""


def measure_drift(
    a: RunnableModel, b: RunnableModel, feeds: Sequence[Feeds], *, heirs: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Drift:  # fmt: skip
    """Run both on the same feeds in onnxruntime without optimizations, so that no value is fused away.

    heirs: see `counterparts`. Raises ModelError when onnxruntime refuses either model or the feeds.
    """
    makers = computed_values(a.proto.graph)
    results = {output.name for output in a.outputs}
    pairs = counterparts(a.proto, b.proto, heirs)
    unmatched = {name: "has no counterpart" for name in makers if name not in pairs}
    ours = a.session(optimize=False, threads=threads, taps=[n for n in pairs if n not in results])
    taps = dict.fromkeys(match.name for matches in pairs.values() for match in matches)
    theirs = b.session(optimize=False, threads=threads, taps=[n for n in taps if n not in {p.name for p in b.outputs}])
    floats = set(ours.float_taps(pairs))
    readable = set(theirs.float_taps(taps))
    for name, matches in list(pairs.items()):
        pairs[name] = [match for match in matches if match.scale is not None or match.name in readable]
        if name not in floats:  # shapes, indexes and flags: no layer's result
            del pairs[name]
        elif not pairs[name]:
            del pairs[name]
            unmatched[name] = f"{matches[0].name} holds other than floats"
    unmatched = {name: why for name, why in unmatched.items() if _may_be_float(makers[name])}
    found, shapes = _run(ours, theirs, pairs, feeds)
    unmatched.update(shapes)
    _drop_shared_codes(makers, found, unmatched)
    return _along_graph(makers, found, unmatched, results, len(feeds))


def _run(
    ours: TappedSession, theirs: TappedSession, pairs: Mapping[str, list[Counterpart]], feeds: Sequence[Feeds]
) -> tuple[Found, dict[str, str]]:
    """The counterpart that agrees best with each value, with the sums of the pair, and the reasons for values without a
    counterpart of equal shape; few values are fetched at a time.
    """
    sums = {name: [_Sums() for _ in matches] for name, matches in pairs.items()}
    differing: dict[str, str] = {}
    names, start, count = list(pairs), 0, _FIRST
    while start < len(names):
        chunk = names[start : start + count]
        held = 0
        for feed in feeds:
            left = ours.run(feed, chunk)
            right = theirs.run(feed, [match.name for name in chunk for match in pairs[name]])
            held = max(held, sum(left[name].nbytes for name in chunk))
            for name in chunk:
                for match, added in zip(pairs[name], sums[name]):
                    x, y = left[name], match.real(right[match.name])
                    if x.shape == y.shape:
                        added.add(x, y)
                    else:
                        added.is_same_shape = False
                        differing[name] = f"{match.name} has shape {list(y.shape)}, not {list(x.shape)}"
        start += len(chunk)
        count = min(_MOST, max(1, int(_HELD / max(1.0, held / len(chunk)))))
    found: Found = {}
    for name, matches in pairs.items():
        alike = [pair for pair in zip(matches, sums[name]) if pair[1].is_same_shape]
        if alike:
            found[name] = max(alike, key=lambda pair: round(pair[1].sqnr, 1))  # of equally good ones the first
            differing.pop(name, None)
    return found, differing


def _drop_shared_codes(makers: Mapping[str, onnx.NodeProto], found: Found, unmatched: dict[str, str]) -> None:
    """Match codes with one value only: the clamped value or the value before the clamp, whichever agrees better."""
    for name, (match, sums) in list(found.items()):
        before = makers[name].input[0] if makers[name].input else ""
        if before in found and found[before][0].name == match.name and found[before][1].sqnr < sums.sqnr:
            del found[before]
            unmatched[before] = f"{match.name} is {name}"


_NOT_FLOAT = frozenset((
    "Shape", "Size", "ArgMax", "ArgMin", "NonZero", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And",
    "Or", "Not", "Xor", "QuantizeLinear", "NonMaxSuppression", "IsNaN", "IsInf",
))  # fmt: skip


def _may_be_float(node: onnx.NodeProto) -> bool:
    """Whether the value of a node that was not run may be a layer's float result."""
    return node.op_type not in _NOT_FLOAT


def _along_graph(
    makers: Mapping[str, onnx.NodeProto], found: Found, unmatched: dict[str, str], results: set[str], samples: int
) -> Drift:
    """The drift of each value, with the lowest SQNR of the matched values before it."""
    others = _given_to_others(makers, {name: sums for name, (_, sums) in found.items()})
    for name in others:
        unmatched[name] = f"{found[name][0].name} is another value: results computed from it agree, itself it does not"
    lowest: dict[str, float] = {}  # of a value, or of the nearest matched values before it
    layers = []
    for name, node in makers.items():
        before = min((lowest.get(v, math.inf) for v in node.input), default=math.inf)
        if name not in found or name in others:
            lowest[name] = before
            continue
        match, known = found[name]
        lowest[name] = known.sqnr
        note = "" if known.specials else "NaN or infinite elements differ"
        layers.append(
            LayerDrift(
                name, node.op_type, match.name, known.sqnr, before, known.cosine, name in results, note
            )
        )  # fmt: skip
    return Drift(tuple(layers), unmatched, samples)


def _given_to_others(makers: Mapping[str, onnx.NodeProto], sums: Mapping[str, _Sums]) -> set[str]:
    """Names of wrong matches: values that do not agree at all, though the matched values computed from them do."""
    following: dict[str, float] = {}  # the best SQNR of the nearest matched values behind a value
    found = set()
    for name, node in reversed(list(makers.items())):
        known = sums.get(name)
        if known is not None and known.cosine < _UNLIKE and following.get(name, -math.inf) >= _ALIKE:
            found.add(name)
            known = None
        best = following.get(name, -math.inf) if known is None else known.sqnr
        for read in node.input:
            following[read] = max(following.get(read, -math.inf), best)
    return found


def _share(sqnr: float) -> float:
    """Noise over signal."""
    return 0.0 if sqnr == math.inf else math.inf if sqnr == -math.inf else 10.0 ** (-sqnr / 10.0)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
