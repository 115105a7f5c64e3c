"""Feeds for a model: made up so that it really runs, or taken from the caller and checked."""

from __future__ import annotations

import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..errors import InputError, ModelError
from ..ir.types import DType
from .runnable import Port, Session, Signature, Source, open_source
from .semantics import Facts, Index, read_facts
from .sizes import attempts, preferred, read_symbols
from .values import Style, draw

Feeds = dict[str, Any]

_MAX_TRIES = 120
_MAX_SECONDS = 30.0
_BOUNDS = re.compile(r"idx=(-?\d+) must be within the inclusive range \[(-?\d+),\s*(-?\d+)\]")
_EXPECTED = re.compile(r"for input: (\S+) for the following indices(.*?)Please fix", re.DOTALL)
_AXIS = re.compile(r"index: (\d+) Got: (\d+) Expected: (\d+)")
_RANK = re.compile(r"Invalid rank for input: (\S+) Got: (\d+) Expected: (\d+)")


@dataclass(frozen=True, slots=True)
class Sample:
    """Feeds that ran, and what the model answered."""

    feeds: Feeds
    results: dict[str, Any]


def synthesise(model: Any, samples: int = 4, seed: int = 0) -> list[Feeds]:
    """Up to `samples` feeds that the model was seen to run on, by input name; at least one.

    Sizes of symbolic dimensions agree wherever their names agree and vary from sample to sample. The same model,
    number and seed give the same feeds. Raises ModelError when onnxruntime cannot load the model, InputError when no
    feeds were found that it runs on.
    """
    source = open_source(model)
    return [s.feeds for s in find_samples(source, source.session(optimize=True), samples, seed)]


def find_samples(
    source: Source, session: Session, samples: int, seed: int, fits: Callable[[Feeds], bool] | None = None
) -> list[Sample]:
    """`synthesise` on an open session, with the results of the runs; `fits` may refuse feeds."""
    return _Search(source, session, seed, fits).find(samples)


class _Search:
    def __init__(self, source: Source, session: Session, seed: int, fits: Callable[[Feeds], bool] | None) -> None:
        self.source, self.session, self.seed, self.fits = source, session, seed, fits
        self.index = Index(source)
        self.facts = read_facts(source, self.index)
        self.ports = {p.name: p for p in source.inputs}
        self.ranks: dict[str, int] = {}
        self.pinned = {p.name: self._channels(p.name) for p in source.inputs}
        self.symbols = read_symbols(source.inputs, self.ranks)
        self.style = Style()
        self.tries = 0
        self.start = time.monotonic()
        self.last = "no inputs were tried"
        self.where = {p.name: self._tables(self.facts[p.name]) for p in source.inputs}

    def find(self, count: int) -> list[Sample]:
        first, sizes = self._first()
        found = [first]
        for number in range(1, count):
            found.append(self._next(number, sizes, found))
        return found

    def _first(self) -> tuple[Sample, dict[str, int]]:
        rng = np.random.default_rng(self.seed)
        poor: tuple[Sample, dict[str, int]] | None = None
        for sizes in attempts(self.symbols, rng):
            for style in self._styles():
                sample = self._try(sizes, style, 0)
                if sample is not None and _is_finite(sample.results):
                    return sample, sizes
                if sample is not None and poor is None:
                    poor = sample, sizes
                if self._spent():
                    break
            if self._spent() or (poor is not None and self.tries > 12):
                break
        if poor is None:
            raise InputError(f"no inputs were found that the model runs on ({self.tries} tried); the last: {self.last}")
        return poor

    def _styles(self) -> list[Style]:
        """Draw floats anew only where they are the likely culprit: after a run that gave no finite number."""
        base = self.style
        if self.last == "not finite":
            return [base, replace(base, floats="unit"), replace(base, floats="small")]
        sized = any("size" in f.roles for f in self.facts.values())
        return [base, *(replace(base, size=n) for n in (1, 2, 8, 32))] if sized else [base]

    def _next(self, number: int, sizes: dict[str, int], found: Sequence[Sample]) -> Sample:
        """Another sample, with other sizes if the model takes them."""
        wanted = preferred(self.symbols, number)
        is_batch = {s: self.symbols.kinds[s] == "batch" for s in sizes}
        scaled = {s: wanted[s] if is_batch[s] else n * 2 for s, n in sizes.items()}
        batched = {s: wanted[s] if is_batch[s] else n for s, n in sizes.items()}
        for choice in (wanted, scaled, batched, sizes):
            sample = self._try(choice, self.style, number)
            if sample is not None and (_is_finite(sample.results) or not _is_finite(found[0].results)):
                return sample
        return found[0]

    def _channels(self, name: str) -> dict[int, int]:
        """The channels that a convolution asks of an input it reads directly."""
        for node, slot in self.index.consumers.get(name, ()):
            kernel = self.index.table_dims(node.input[1]) if node.op_type == "Conv" and slot == 0 else None
            if kernel is not None:
                return {1: kernel[1] * next((a.i for a in node.attribute if a.name == "group"), 1)}
        return {}

    def _spent(self) -> bool:
        return self.tries >= _MAX_TRIES or time.monotonic() - self.start > _MAX_SECONDS

    def _try(self, sizes: Mapping[str, int], style: Style, number: int) -> Sample | None:
        """Run on these sizes; learn from what the runtime complains about and try again a few times."""
        for _ in range(4):
            self.tries += 1
            feeds = self._feeds(sizes, style, number)
            if feeds is None or (self.fits is not None and not self.fits(feeds)):
                self.last = self.last if feeds is None else "the sizes do not fit the other model"
                return None
            try:
                results = self.session.run(feeds)
            except ModelError as error:
                self.last = str(error)
                learned = self._learn(self.last, style)
                if learned is None or self._spent():
                    return None
                style = learned
                continue
            if _is_finite(results):
                self.style = style
                self.last = ""
            else:
                self.last = "not finite"
            return Sample(feeds, results)
        return None

    def _learn(self, message: str, style: Style) -> Style | None:
        """What an error of onnxruntime says about the feeds; None if it says nothing we understand."""
        bounds = _BOUNDS.search(message)
        if bounds:
            limit = int(bounds.group(3)) + 1
            return None if style.limit is not None and style.limit <= limit else replace(style, limit=max(limit, 1))
        rank = _RANK.search(message)
        if rank:
            self.ranks[rank.group(1)] = int(rank.group(3))
            self.symbols = read_symbols(self.source.inputs, self.ranks)
            return style
        expected = _EXPECTED.search(message)
        if expected:
            pinned = self.pinned.setdefault(expected.group(1), {})
            news = {int(a): int(size) for a, _, size in _AXIS.findall(expected.group(2))}
            if all(pinned.get(a) == size for a, size in news.items()):
                return None
            pinned.update(news)
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
        for port in self.source.inputs:
            value = self._value(port, self.facts[port.name], shapes, longest, style, number, rng)
            if value is None:
                return None
            feeds[port.name] = value
        return feeds

    def _value(
        self, port: Port, facts: Facts, shapes: Mapping[str, tuple[int, ...]], longest: int, style: Style, number: int,
        rng: np.random.Generator,
    ) -> Any:  # fmt: skip
        if port.elem:
            context = {"time": longest, "tables": self._table_size(port.name, shapes)}
            return draw(port, facts, shapes[port.name], context, style, number, rng)
        kind = port.type.WhichOneof("value")
        inner = port.type.sequence_type.elem_type if kind == "sequence_type" else port.type.optional_type.elem_type
        if kind not in ("sequence_type", "optional_type") or inner.WhichOneof("value") != "tensor_type":
            self.last = f"input {port.name} is a {kind}, for which no values are made up"
            return None
        tensor = inner.tensor_type
        dims = tuple(d.dim_value or 3 for d in tensor.shape.dim) if tensor.HasField("shape") else (3,)
        element = Port(port.name, tensor.elem_type, dims, inner)
        draws = [draw(element, facts, dims, {"time": longest}, style, number, rng) for _ in range(3)]
        return draws if kind == "sequence_type" else draws[0]

    def _tables(self, facts: Facts) -> list[tuple[str, int]]:
        """The model inputs, with the axis, whose size bounds the indexes of an input."""
        inputs = frozenset(self.ports)
        found = []
        for name, axis in facts.tables:
            origin = self.index.origin(name, inputs)
            if origin is not None:
                found.append((origin, axis))
        return found

    def _table_size(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
        sizes = [
            shapes[origin][axis]
            for origin, axis in self.where[name]
            if origin in shapes and -len(shapes[origin]) <= axis < len(shapes[origin])
        ]
        return max(min(sizes), 1) if sizes else 0


def _is_finite(results: Mapping[str, Any]) -> bool:
    """Every float output has at least one finite element, or is empty by nature."""
    floats = [r for r in results.values() if isinstance(r, np.ndarray) and r.dtype.kind == "f"]
    return all(r.size == 0 or bool(np.isfinite(r).any()) for r in floats) and not (
        floats and all(r.size == 0 for r in floats)
    )


def read_feeds(inputs: Any, model: Any) -> list[Feeds]:
    """The caller's feeds for a model as a list; see `given_feeds`."""
    return given_feeds(inputs, open_source(model))


def given_feeds(inputs: Any, source: Signature) -> list[Feeds]:
    """The caller's feeds as a list: a dict of arrays, an iterable of dicts, a dict of stacked arrays, or a file.

    Stacked arrays have one axis more than the input, the first one counting samples. A `.npz` holds one array an input;
    a `.npy` serves models of one input. Raises InputError, one line, when names, dtypes or shapes do not fit.
    """
    if isinstance(inputs, (str, os.PathLike)):
        inputs = read_arrays(Path(inputs), source)
    if isinstance(inputs, np.ndarray):
        inputs = {_only(source).name: inputs}
    if isinstance(inputs, Mapping):
        feeds = unstacked(dict(inputs), source)
    elif hasattr(inputs, "get_next"):
        feeds = list(iter(inputs.get_next, None))
    elif isinstance(inputs, Iterable):
        feeds = [dict(_a_mapping(f)) for f in inputs]
    else:
        raise InputError(f"inputs: expected a dict, an iterable of dicts or an .npz path, got {type(inputs).__name__}")
    if not feeds:
        raise InputError("inputs: there is not one sample")
    return [checked_feed(f, source) for f in feeds]


def _a_mapping(feed: Any) -> Mapping[str, Any]:
    if not isinstance(feed, Mapping):
        raise InputError(f"inputs: each sample is a dict of arrays by input name, got {type(feed).__name__}")
    return feed


def read_arrays(path: Path, source: Signature) -> Any:
    """The arrays of an `.npz` or `.npy` file by input name. InputError when it cannot be read."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {_only(source).name: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"inputs: {path} is no readable .npz or .npy file of numbers") from error


def _only(source: Signature) -> Port:
    if len(source.inputs) != 1:
        raise InputError(f"inputs: one array was given, the model takes {len(source.inputs)}: {_signature(source)}")
    return source.inputs[0]


def _signature(source: Signature) -> str:
    return "; ".join(map(str, source.inputs))


def unstacked(feed: Feeds, source: Signature) -> list[Feeds]:
    """The samples of stacked arrays, which have one axis more than the inputs; otherwise the one feed, as it is."""
    ranks = {p.name: len(p.dims) for p in source.inputs if p.dims is not None}
    arrays = {n: np.asarray(v) for n, v in feed.items() if n in ranks}
    stacked = bool(arrays) and all(a.ndim == ranks[n] + 1 for n, a in arrays.items())
    if not stacked:
        return [feed]
    counts = {len(a) for a in arrays.values()}
    if len(counts) != 1:
        raise InputError(f"inputs: stacked arrays hold different numbers of samples: {sorted(counts)}")
    return [{n: np.asarray(v)[i] for n, v in feed.items()} for i in range(counts.pop())]


def checked_feed(feed: Feeds, source: Signature, *, exact: bool = False) -> Feeds:
    """One sample in the order, dtypes and layout of the model's inputs. InputError where names or shapes do not fit.

    Dtypes are converted where that loses nothing but floats' last digits; not with `exact`, but for Python's numbers.
    """
    names = {p.name for p in source.inputs}
    if names - set(feed) or set(feed) - names:
        missing, extra = sorted(names - set(feed)), sorted(set(feed) - names)
        told = " and ".join([f"lack {missing}"] * bool(missing) + [f"have unknown {extra}"] * bool(extra))
        raise InputError(f"inputs: the arrays {told}; the model takes {_signature(source)}")
    return {p.name: _checked_value(p, feed[p.name], exact) for p in source.inputs}


def _checked_value(port: Port, value: Any, exact: bool) -> Any:
    if not port.elem:
        return value
    array, dtype = np.asarray(value), DType(port.elem)
    if dtype is DType.STRING:
        array = array.astype(object)
    elif array.dtype != dtype.numpy:
        strange = exact and hasattr(value, "dtype") and array.dtype.newbyteorder("=") != dtype.numpy
        if strange or not _converts(array, dtype.numpy):
            raise InputError(f"inputs: {port.name} has dtype {array.dtype}, the model takes {port}")
        array = array.astype(dtype.numpy)
    dims = port.dims
    if dims is not None and (
        len(dims) != array.ndim or any(isinstance(d, int) and d > 0 and d != n for d, n in zip(dims, array.shape))
    ):
        raise InputError(f"inputs: {port.name} has shape {list(array.shape)}, the model takes {port}")
    return np.asarray(array, order="C")


def _converts(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> bool:
    """Floats may be rounded to the model's floats; integers must keep their values."""
    if array.dtype.kind == "f":
        return dtype.kind in "fV"
    return array.dtype.kind in "iu" and dtype.kind in "iu" and np.array_equal(array.astype(dtype), array)


def one_ulp(feeds: Feeds, rng: np.random.Generator, keep: frozenset[str] = frozenset()) -> Feeds:
    """The feeds with every float element moved to a neighbouring float, up or down at random.

    Zeros stay, and so do the inputs named in `keep`: floats that stand for indexes, masks or sizes.
    """
    return {name: value if name in keep else _moved(value, rng) for name, value in feeds.items()}


def _moved(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, list):
        return [_moved(v, rng) for v in value]
    if not isinstance(value, np.ndarray) or value.dtype not in (np.float16, np.float32, np.float64):
        return value
    way = np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf).astype(value.dtype)
    return np.where(value == 0, value, np.nextafter(value, way)).astype(value.dtype)
