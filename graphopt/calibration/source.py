"""Calibration data of any supported form as re-iterable feeds, one sample at a time."""

from __future__ import annotations

import itertools
import os
import pickle
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..equivalence.feeds import FeedData, FeedReader, Feeds, by_name, unstacked
from ..equivalence.runnable import open_runnable, signature_of
from ..equivalence.synthesis import Sample, synthesise, synthesised
from ..equivalence.tapped import TappedSession
from ..equivalence.value_info import Signature
from ..errors import InputError, ModelError, one_line
from .folders import Preprocess, preprocess_named, read_folder
from .forms import Forms, Tokenizer, as_array
from .prompts import TEXTS, Prompts, as_tokens

BATCH, BATCH_BYTES = 16, 1 << 18
"""The most rows of one sample, and the most bytes of several rows, where an array of an open batch size holds many:
small rows are read together, since each run has a fixed cost (`python -m tests.bench.quantize_time --slope`)."""

SYNTHETIC = "synthetic"
"""The word in place of data that requests made-up inputs where they are refused otherwise."""
SYNTHESISED = "no calibration data was given: made-up inputs took its place, and no accuracy is measured on them"
OWN_TEXT = "no calibration data was given: text that the model itself wrote took its place"
"""The notes of a run without data, by the inputs that replace it."""


CalibrationDataReader = FeedReader
"""A reader with `rewind()` is read as often as needed; others are spooled."""

CalibrationData = FeedData | None
"""The forms of calibration data: see `open_calibration`."""


def is_synthetic(data: CalibrationData) -> bool:
    """Whether made-up inputs take the place of data: none are given, or the word "synthetic"."""
    return data is None or (isinstance(data, (str, os.PathLike)) and os.fspath(data) == SYNTHETIC)


class Calibration:
    """Checked feeds of a model; every iteration reads them from the start. `note` is a warning for the user, if any.

    own_text: returns feeds of text that a language model with caches writes itself, beside the data; none where it
    writes none, or where such text is the data already. seen: the runs of the model by which made-up feeds were found.

    Iterating raises InputError, one line, when the data do not fit the model or the reader fails half-way.
    """

    def __init__(
        self, read: Callable[[], Iterator[Any]], source: Signature, note: str = "", forms: Forms | None = None,
        own_text: Callable[[], list[Feeds]] = list, seen: Sequence[Sample] = (),
    ) -> None:  # fmt: skip
        self._read, self._note, self._forms, self.own_text = read, note, forms or Forms(source), own_text
        self._seen = seen

    @property
    def prompts(self) -> Prompts | None:
        """The model's token inputs; None where it has other inputs, too."""
        return self._forms.prompts

    @property
    def shows_activations(self) -> bool:
        """Whether inputs are data, or text by the model itself: their activations may guide the rounding of weights."""
        return not self.is_synthetic or self._note == OWN_TEXT

    @property
    def note(self) -> str:
        """Warnings about the data read so far; "" for none."""
        return "; ".join((self._note,) * bool(self._note) + tuple(self._forms.notes))

    @property
    def is_synthetic(self) -> bool:
        """Whether the inputs are made up: figures measured on them say nothing of accuracy."""
        return bool(self._note)

    def take_seen(self) -> Sequence[Sample]:
        """The runs of the model by which made-up feeds were found, handed over once: results may be large."""
        seen, self._seen = self._seen, ()
        return seen

    def __iter__(self) -> Iterator[Feeds]:
        count = 0
        with _calibration_errors():
            for sample in _with_one_line_errors(self._read):
                for feed in self._forms.feeds(sample):
                    count += 1
                    yield _check_values(feed, count)
            if not count:
                raise InputError("inputs: there is not one sample")

    def first(self, count: int) -> list[Feeds]:
        """The first feeds, at most `count`."""
        return list(itertools.islice(self, count))


def open_calibration(
    data: CalibrationData, model: Any, *, samples: int = 8, seed: int = 0,
    preprocess: str | Preprocess | Tokenizer | None = None, texts: int = TEXTS,
) -> Calibration:  # fmt: skip
    """Calibration feeds for `model` (anything that `equivalence.open_runnable` opens).

    data: a reader with `get_next() -> dict | None` (and perhaps `rewind()`), an iterable or data set of samples, a dict
    of arrays that are stacked along a new axis or along the batch, an `.npz` or `.npy` path, a folder of images or
    arrays; None or "synthetic" for `samples` made-up feeds, or `texts` that a language model generates itself. A sample
    is a dict of arrays, an array, or a tuple of arrays that labels may follow; tensors of torch are arrays; a batch is
    added, or taken apart, as the model requires; entries without an input of the model are ignored, with a note. For
    language models a sample may be a prompt, a list or array of tokens, which gets the mask, positions and caches that
    the model takes, or a text. preprocess: of images, see `preprocess_named`, or the tokenizer of texts. Data that can
    be read only once are spooled to a temporary file, as far as they are read. InputError, one line, when the first
    sample does not fit.
    """
    tokenizer = None if isinstance(preprocess, (str, Preprocess)) else preprocess
    asked = preprocess_named(preprocess) if isinstance(preprocess, (str, Preprocess)) else None
    source = signature_of(model)
    prompts = Prompts.of(source, model)
    cached = prompts if prompts is not None and prompts.caches else None
    writer = cached if cached is not None and cached.vocabulary else None
    if is_synthetic(data):
        if writer is not None:
            made = cache(
                lambda: _own_text(writer, _LazySession(model), seed, texts) or synthesise(model, samples, seed)
            )
            return Calibration(lambda: iter(made()), source, OWN_TEXT, Forms(source, prompts))
        with _calibration_errors():
            seen = synthesised(model, samples, seed)
        feeds = [sample.feeds for sample in seen]
        return Calibration(lambda: iter(feeds), source, SYNTHESISED, Forms(source, prompts), seen=seen)
    session = _LazySession(model)
    forms = Forms(source, prompts, None if cached is None else session, tokenizer)
    own_text = list if writer is None else cache(partial(_own_text, writer, session, seed, texts))
    with _calibration_errors():
        calibration = Calibration(_reader(data, source, forms, asked), source, forms=forms, own_text=own_text)
    calibration.first(1)
    return calibration


class _LazySession:
    """Runs a model in a session that is opened when first needed."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.session: TappedSession | None = None

    def __call__(self, feeds: Feeds) -> dict[str, Any]:
        """The results by name. InputError where the model does not run on them."""
        if self.session is None:
            self.session = open_runnable(self.model).session(optimize=True, serves=True)
        try:
            return self.session.run(feeds)
        except ModelError as error:
            raise InputError(f"inputs: the model does not run on a prompt: {error}") from error


def _own_text(prompts: Prompts, run: _LazySession, seed: int, count: int) -> list[Feeds]:
    """Feeds of texts that a language model generates itself, the last in two parts; none where generation fails."""
    try:
        texts = prompts.written(run, np.random.default_rng(seed), count)
        return [*prompts.continued(texts[-1], run), *map(prompts.feed, texts[:-1])]
    except (InputError, ModelError):
        return []


def _reader(data: Any, source: Signature, forms: Forms, preprocess: Preprocess | None) -> Callable[[], Iterator[Any]]:
    if isinstance(data, (str, os.PathLike)) and os.path.isdir(data):
        return read_folder(Path(data), source, preprocess)
    prompts = as_tokens(as_array(data)) if forms.prompts is not None and len(source.inputs) > 1 else None
    if prompts is not None:
        lines = [*np.atleast_2d(prompts)]
        return lambda: iter(lines)
    data = by_name(as_array(data), source)
    if isinstance(data, Mapping):
        rows = _rows(forms.named(data), source)
        return lambda: iter(rows)
    if hasattr(data, "get_next"):
        if hasattr(data, "rewind"):
            return _RewoundReader(data)
        return _SpooledFeeds(iter(data.get_next, None), forms)
    if isinstance(data, Iterator):
        return _SpooledFeeds(data, forms)
    if isinstance(data, Iterable):
        return lambda: iter(data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):  # a data set of torch
        return lambda: (data[index] for index in range(len(data)))
    raise InputError(
        f"inputs: expected a reader with get_next(), an iterable of dicts, a dict of arrays, an .npz path or a folder, "
        f"got {type(data).__name__}"
    )


def _rows(arrays: dict[str, Any], source: Signature) -> list[Mapping[str, Any]]:
    """The samples in a dict of arrays, stacked along an extra axis, or along a batch axis that the model leaves open
    (then a few rows a sample) or fixes to one."""
    split = unstacked(arrays, source)
    if len(split) != 1 or split[0] is not arrays:
        return list(split)
    ports = {p.name: p for p in source.inputs}
    if set(ports) != set(arrays):
        return [arrays]
    shapes = {n: np.shape(a) for n, a in arrays.items()}
    if any(p.dims is None or len(p.dims) < 2 or len(shapes[n]) != len(p.dims) for n, p in ports.items()):
        return [arrays]
    counts, sizes = {s[0] for s in shapes.values()}, {p.dims[0] for p in ports.values() if p.dims}
    if len(counts) > 1 and len(sizes) == 1 and not any(isinstance(d, int) for d in sizes):
        raise InputError(f"inputs: stacked arrays hold different numbers of samples: {sorted(counts)}")
    if len(counts) != 1 or any(isinstance(d, int) and d > 1 for d in sizes):
        return [arrays]
    count = counts.pop()
    row = sum(np.asarray(a).nbytes for a in arrays.values()) // max(count, 1)
    step = 1 if 1 in sizes else max(1, min(BATCH, BATCH_BYTES // max(row, 1)))
    return [{n: np.asarray(a)[i : i + step] for n, a in arrays.items()} for i in range(0, count, step)]


class _RewoundReader:
    """A rewindable reader, read from its start at each call."""

    def __init__(self, reader: Any) -> None:
        self.reader, self.started = reader, False

    def __call__(self) -> Iterator[Mapping[str, Any]]:
        if self.started:
            self.reader.rewind()
        self.started = True
        return iter(self.reader.get_next, None)


class _SpooledFeeds:
    """Feeds that can be read only once, spooled in order to a nameless temporary file, only as far as requested."""

    def __init__(self, samples: Iterator[Any], forms: Forms) -> None:
        self._feeds = (feed for sample in samples for feed in forms.feeds(sample))
        self._file = tempfile.TemporaryFile(prefix="graphopt-")  # noqa: SIM115 - closed when nobody reads any more
        weakref.finalize(self, self._file.close)
        self._places: list[int] = []  # offsets in the file of the feeds read so far

    def __call__(self) -> Iterator[Mapping[str, Any]]:
        for index in itertools.count():
            if index < len(self._places):
                self._file.seek(self._places[index])
                yield pickle.load(self._file)
                continue
            try:
                feed = next(self._feeds)
            except StopIteration:
                return
            self._places.append(self._file.seek(0, os.SEEK_END))
            pickle.dump(feed, self._file, pickle.HIGHEST_PROTOCOL)
            yield feed


def _with_one_line_errors(read: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """The feeds; any error of the caller's code becomes an InputError of one line."""
    count, feeds = 0, None
    while True:
        try:
            feeds = read() if feeds is None else feeds
            feed = next(feeds)
        except StopIteration:
            return
        except InputError:
            raise
        except Exception as error:  # the caller's reader may raise anything
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise InputError(f"inputs: the reader failed after {count} samples: {reason}") from error
        count += 1
        yield feed


def _check_values(feed: Feeds, number: int) -> Feeds:
    """The feed. InputError where it has NaN or no element at all: the first step of a decoder has its cache empty."""
    has_elements = any(not isinstance(value, np.ndarray) or value.size for value in feed.values())
    for name, value in feed.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and np.isnan(value).any():
            raise InputError(f"inputs: sample {number} has NaN in {name}")
        if isinstance(value, np.ndarray) and value.size == 0 and not has_elements:
            raise InputError(f"inputs: sample {number} has an empty {name}, of shape {list(value.shape)}")
    return feed


@contextmanager
def _calibration_errors() -> Iterator[None]:
    """Errors about inputs name calibration as their place."""
    try:
        yield
    except InputError as error:
        text = str(error)
        raise InputError(text.replace("inputs:", "calibration:", 1) if text.startswith("inputs:") else text) from error
