"""The search for feeds on which a model runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError, ModelError
from ...ir import Model
from ..feeds import Feeds
from ..onnx_graph import GraphIndex
from ..runnable import RunnableModel, open_runnable
from ..tapped import Budget, TappedSession
from ..value_info import ValueInfo
from .draws import Style, draw
from .probe import Probe
from .semantics import InputFacts, read_facts
from .sizes import attempts, preferred, read_symbols, reshapable

if TYPE_CHECKING:
    from ...onnx_io.source import ModelSource

# A bound, not a tuned number: a try costs one run, a comparison many.
_MAX_TRIES = 120
"""`sizes.attempts` proposes about a hundred assignments; a model that fails on all of them is unverified."""
_MAX_SECONDS = 15.0
"""Half of the time that a user waits for an answer that may be "unverified": a comparison searches again without
optimizations if no inputs run with them."""
_MAX_BYTES = 1 << 30
"""Memory of a search beyond the model itself: most machines have this much beside a model."""
_MAX_ALIVE = 1 << 22
"""The most elements alive in a run, by its shapes: 16 MiB of floats. Later sessions also hold inner values, and arenas
that grow by doubling: together they stay within half of `_MAX_BYTES`, and 50 runs within seconds. Sizes that a model
fixes may take more."""
_RANKS = (1, 2, 3, 4, 5)
"""Ranks of inputs of open rank: from a vector to a batch of volumes. Four samples show the first four."""

# onnxruntime names the sizes and bounds it expects only in the text of its errors. These only propose the next try:
# an unrecognized text ends the search sooner, and no feed counts before the model has run on it.
_BOUNDS = re.compile(r"idx=(-?\d+) must be within the inclusive range \[(-?\d+),\s*(-?\d+)\]")
_EXPECTED = re.compile(r"for input: (\S+) for the following indices(.*?)Please fix", re.DOTALL)
_AXIS = re.compile(r"index: (\d+) Got: (\d+) Expected: (\d+)")
_RESHAPED = re.compile(r"Input shape:\{([\d,]+)\}, requested shape:\{([-\d,]+)\}")
_RANK = re.compile(r"Invalid rank for input: (\S+) Got: (\d+) Expected: (\d+)")

_OF_THE_GRAPH = re.compile(r"subgraph input \d+ has unknown shape")
"""Errors that no inputs avoid: onnxruntime runs no Loop whose body declares no shape of its counter."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Feeds that a model ran on, and its results."""

    feeds: Feeds
    results: dict[str, Any]


def synthesise(model: ModelSource | Model, samples: int = 4, seed: int = 0) -> list[Feeds]:
    """Up to `samples` feeds, at least one, on which the model ran, by input name.

    Sizes of symbolic dimensions agree wherever their names agree and vary from sample to sample. The same model,
    number and seed give the same feeds. Raises ModelError when onnxruntime cannot load the model, InputError when it
    runs on no feeds that were found.
    """
    return [sample.feeds for sample in synthesised(model, samples, seed)]


def synthesised(model: ModelSource | Model, samples: int, seed: int) -> list[Sample]:
    """`synthesise`, with the results of the runs."""
    runnable = open_runnable(model)
    return find_samples(runnable, runnable.session(optimize=True), samples, seed)


def find_samples(
    model: RunnableModel, session: TappedSession, samples: int, seed: int, fits: Callable[[Feeds], bool] | None = None
) -> list[Sample]:
    """`synthesise` on an open session, with the results of the runs; `fits` may refuse feeds."""
    return _Search(model, session, seed, fits).find(samples)


class _Search:
    """Tries sizes and styles of values in turn, and learns from the model's errors."""

    def __init__(
        self, model: RunnableModel, session: TappedSession, seed: int, fits: Callable[[Feeds], bool] | None
    ) -> None:
        self.model, self.session, self.seed, self.fits = model, session, seed, fits
        self.index = GraphIndex(model.proto)
        self.facts = read_facts(model, self.index)
        self.ranks: dict[str, int] = {}
        self.unranked = [p.name for p in model.inputs if p.elem and p.dims is None]
        self.runnable_ranks: list[int] = []
        self.pinned = {p.name: self._channels(p.name) for p in model.inputs}
        self.symbols = read_symbols(model.inputs, self.ranks)
        self.style = Style()
        self.tries = 0
        self.reshaped: set[tuple[int, ...]] = set()
        self.probe: Probe | None = None
        self.most, self.budget = _MAX_ALIVE, Budget(_MAX_SECONDS, _MAX_BYTES)
        self.failure, self.not_finite = "no inputs were tried", False
        self.tables = {p.name: self._tables(self.facts[p.name]) for p in model.inputs}

    def find(self, count: int) -> list[Sample]:
        first, sizes = self._first()
        self.most = max(self.most, self._alive(sizes))  # sizes that the model fixes may take more
        samples = [first]
        for number in range(1, count):
            samples.append(self._next(number, sizes, samples))
        return samples

    def _first(self) -> tuple[Sample, dict[str, int]]:
        rng = np.random.default_rng(self.seed)
        fallback: tuple[Sample, dict[str, int]] | None = None  # it runs, but gives no finite number
        self._seek_ranks()
        for sizes in self._attempts(rng):
            for style in self._styles():
                sample = self._try(sizes, style, 0)
                if sample is not None and _is_finite(sample.results):
                    return sample, sizes
                if sample is not None and fallback is None:
                    fallback = sample, sizes
                if self._spent():
                    break
            if self._spent() or (fallback is not None and self.tries > 12):
                break
        if fallback is None:
            tried = f"{self.tries} tried); the last: {self.failure}"
            raise InputError(f"no inputs were found that the model runs on ({tried}")
        return fallback

    def _seek_ranks(self) -> None:
        """Find the ranks with which the model runs, for inputs of open rank, and continue with the least."""
        if self.unranked:
            self.runnable_ranks = [rank for rank in _RANKS if self._try(self._assume(rank), self.style, 0) is not None]
            self._assume(next(iter(self.runnable_ranks), 1))

    def _assume(self, rank: int) -> dict[str, int]:
        """Set this rank for inputs of open rank; returns the preferred sizes."""
        self.ranks.update(dict.fromkeys(self.unranked, rank))
        self.symbols = read_symbols(self.model.inputs, self.ranks)
        return preferred(self.symbols, 0)

    def _attempts(self, rng: np.random.Generator) -> Iterator[dict[str, int]]:
        """Sizes to try: if the preferred ones fail, the sizes that weights demand; none beyond the memory budget."""
        smallest: tuple[int, dict[str, int]] | None = None
        for number, sizes in enumerate(attempts(self.symbols, rng)):
            if number == 1:
                solved = self._shapes().solve(self.symbols, sizes, self._spent)
                if solved is not None and any(n != sizes[s] for s, n in solved.items()):
                    yield solved
            alive = self._alive(sizes)
            if alive <= self.most:
                yield sizes
                yield from self._reshaped(sizes) if number else ()
            elif smallest is None or alive < smallest[0]:
                smallest = alive, sizes
        if smallest is not None and not self.tries:
            yield smallest[1]

    def _reshaped(self, sizes: Mapping[str, int], further: int = 2) -> Iterator[dict[str, int]]:
        """Where a Reshape failed on `sizes`, the sizes that it requires: exporters write sizes of their example into
        computed shapes, which inference does not know. Batches, seldom the cause, come last."""
        found = _RESHAPED.search(self.failure)
        if found is None:
            return
        given, asked = ([int(n) for n in shape.split(",")] for shape in found.groups())
        for chosen in reshapable(dict(sorted(sizes.items(), key=self._is_batch)), given, asked):
            if (key := tuple(chosen.values())) in self.reshaped or self._alive(chosen) > self.most:
                continue
            self.reshaped.add(key)
            yield chosen
            if further:
                yield from self._reshaped(chosen, further - 1)

    def _is_batch(self, size: tuple[str, int]) -> bool:
        return self.symbols.kinds.get(size[0]) == "batch"

    def _shapes(self) -> Probe:
        if self.probe is None:
            self.probe = Probe(self.model.proto, self.index)
        return self.probe

    def _alive(self, sizes: Mapping[str, int]) -> int:
        """The most elements alive in a run with these sizes; 0 where the model fixes all sizes."""
        if not self.symbols.kinds:
            return 0
        shapes = {name: self.symbols.shape(name, sizes) for name in self.symbols.dims}
        fed = sum(math.prod(shape) for shape in shapes.values())
        return fed if fed > self.most else max(fed, self._shapes().peak(self._shapes().shapes(shapes)))

    def _styles(self) -> list[Style]:
        """Styles to try: other floats only after a run without a finite result, their likely cause."""
        base = self.style
        if self.not_finite:
            return [base, replace(base, floats="unit"), replace(base, floats="small")]
        sized = any("size" in f.roles for f in self.facts.values())
        return [base, *(replace(base, size=n) for n in (1, 2, 8, 32))] if sized else [base]

    def _next(self, number: int, sizes: dict[str, int], samples: Sequence[Sample]) -> Sample:
        """Another sample, of another rank where the rank is open, with other sizes if the model accepts them."""
        if self.runnable_ranks:
            open_sizes = self._assume(self.runnable_ranks[number % len(self.runnable_ranks)])
            sizes = {symbol: sizes.get(symbol, size) for symbol, size in open_sizes.items()}
        varied = preferred(self.symbols, number)
        is_batch = {s: self.symbols.kinds[s] == "batch" for s in sizes}
        scaled = {s: varied[s] if is_batch[s] else n * 2 for s, n in sizes.items()}
        batched = {s: varied[s] if is_batch[s] else n for s, n in sizes.items()}
        for choice in (varied, scaled, batched, sizes):
            if self._alive(choice) > self.most:
                continue
            sample = self._try(choice, self.style, number)
            if sample is None or not _is_finite(sample.results, wholly=self.style.masked_rows):
                # a row masked with -inf is NaN, which does not concern the other rows
                sample = self._try(choice, replace(self.style, masked_rows=False), number) or sample
            if sample is not None and (_is_finite(sample.results) or not _is_finite(samples[0].results)):
                return sample
        return samples[0]

    def _channels(self, name: str) -> dict[int, int]:
        """The channels that a convolution requires of an input that it reads directly."""
        for node, slot in self.index.consumers.get(name, ()):
            kernel = self.index.table_dims(node.input[1]) if node.op_type == "Conv" and slot == 0 else None
            if kernel is not None:
                return {1: kernel[1] * next((a.i for a in node.attribute if a.name == "group"), 1)}
        return {}

    def _spent(self) -> bool:
        return self.tries >= _MAX_TRIES or self.budget.is_spent or _OF_THE_GRAPH.search(self.failure) is not None

    def _fail(self, reason: str) -> None:
        self.failure, self.not_finite = reason, False

    def _try(self, sizes: Mapping[str, int], style: Style, number: int) -> Sample | None:
        """Run on these sizes; after an error that names a size or a bound, try again with it a few times."""
        for _ in range(4):
            self.tries += 1
            try:
                feeds = self._feeds(sizes, style, number)
            except MemoryError:
                self._fail("there is not enough memory for the inputs")
                return None
            if feeds is None:
                return None
            if self.fits is not None and not self.fits(feeds):
                self._fail("the sizes do not fit the other model")
                return None
            try:
                results = self.session.run(feeds, budget=self.budget)
            except ModelError as error:
                self._fail(str(error))
                learned = self._learn(self.failure, style)
                if learned is None or self._spent():
                    return None
                style = learned
                continue
            self.not_finite = not _is_finite(results)
            if self.not_finite:
                self.failure = "not finite"
            else:
                self.style = style
            return Sample(feeds, results)
        return None

    def _learn(self, message: str, style: Style) -> Style | None:
        """The style to try next, after an error of onnxruntime that names a bound, rank or size; None after others."""
        bounds = _BOUNDS.search(message)
        if bounds:
            limit = int(bounds.group(3)) + 1
            return None if style.limit is not None and style.limit <= limit else replace(style, limit=max(limit, 1))
        rank = _RANK.search(message)
        if rank:
            self.ranks[rank.group(1)] = int(rank.group(3))
            self.symbols = read_symbols(self.model.inputs, self.ranks)
            return style
        expected = _EXPECTED.search(message)
        if expected:
            pinned = self.pinned.setdefault(expected.group(1), {})
            sizes = {int(axis): int(size) for axis, _, size in _AXIS.findall(expected.group(2))}
            if all(pinned.get(axis) == size for axis, size in sizes.items()):
                return None
            pinned.update(sizes)
            return style
        return None

    def _feeds(self, sizes: Mapping[str, int], style: Style, number: int) -> Feeds | None:
        rng = np.random.default_rng((self.seed, number))
        shapes = {}
        for name in self.symbols.dims:
            shape = self.symbols.shape(name, sizes)
            pinned = self.pinned.get(name, {})
            shapes[name] = tuple(pinned.get(i, n) for i, n in enumerate(shape))
        longest = max((s[1] for s in shapes.values() if len(s) >= 2), default=style.size)
        feeds: Feeds = {}
        for info in self.model.inputs:
            value = self._value(info, self.facts[info.name], shapes, longest, style, number, rng)
            if value is None:
                return None
            feeds[info.name] = value
        return feeds

    def _value(
        self, info: ValueInfo, facts: InputFacts, shapes: Mapping[str, tuple[int, ...]], longest: int, style: Style,
        number: int, rng: np.random.Generator,
    ) -> Any:  # fmt: skip
        if info.elem:
            context = {"time": longest, "tables": self._table_size(info.name, shapes)}
            return draw(info, facts, shapes[info.name], context, style, number, rng)
        kind = info.type.WhichOneof("value")
        inner = info.type.sequence_type.elem_type if kind == "sequence_type" else info.type.optional_type.elem_type
        if kind not in ("sequence_type", "optional_type") or inner.WhichOneof("value") != "tensor_type":
            self._fail(f"input {info.name} is a {kind}, for which no values are made up")
            return None
        tensor = inner.tensor_type
        dims = tuple(d.dim_value or 3 for d in tensor.shape.dim) if tensor.HasField("shape") else (3,)
        element = ValueInfo(info.name, tensor.elem_type, dims, inner)
        draws = [draw(element, facts, dims, {"time": longest}, style, number, rng) for _ in range(3)]
        return draws if kind == "sequence_type" else draws[0]

    def _tables(self, facts: InputFacts) -> list[tuple[str, int]]:
        """The model inputs, each with the axis, whose sizes bound the indexes in an input."""
        inputs = frozenset(p.name for p in self.model.inputs)
        origins = [(self.index.origin(name, inputs), axis) for name, axis in facts.tables]
        return [(origin, axis) for origin, axis in origins if origin is not None]

    def _table_size(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
        sizes = [
            shapes[origin][axis]
            for origin, axis in self.tables[name]
            if origin in shapes and -len(shapes[origin]) <= axis < len(shapes[origin])
        ]
        return max(min(sizes), 1) if sizes else 0


def _is_finite(results: Mapping[str, Any], wholly: bool = False) -> bool:
    """Every float output has at least one finite element (`wholly`: no other), or is empty by nature."""
    floats = [r for r in results.values() if isinstance(r, np.ndarray) and r.dtype.kind == "f"]
    known = np.all if wholly else np.any
    return all(r.size == 0 or bool(known(np.isfinite(r))) for r in floats) and not (
        floats and all(r.size == 0 for r in floats)
    )
