"""Prompts of a language model as feeds: tokens, with the mask, positions and empty caches of a decoder.

The first token of a prompt is where attention rests (its sink): its activations are the largest of all, and weights
rounded without them ruin the model. So prompts run whole, from an empty cache. Without data, text that the model
generates itself takes their place: random tokens have other activations (LLM-QAT, Liu et al. 2023, calibrates so).
Beside data, such text adds activations of other texts for weights of few bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..equivalence.feeds import Feeds
from ..equivalence.value_info import Signature, ValueInfo
from ..errors import InputError
from ..ir import Array, DType, Model, Value

TOKENS, MASK = re.compile(r"(^|_)(ids|tokens?)$", re.I), re.compile(r"mask", re.I)
POSITIONS, SEGMENTS = re.compile(r"position", re.I), re.compile(r"token_type|segment", re.I)
CACHE = re.compile(r"past|cache|(^|_)(key|value)s?(_|\.|\d|$)", re.I)
"""Patterns of the names that exporters give to the inputs of a language model."""
PREFIXES = re.compile(r"past_key_values|past_key_value|past|presents?|new|cache|out(put)?|in(put)?|[._]", re.I)
"""Parts of names that distinguish input caches from output caches."""
STARTS = (0, 1, 2)
"""Tokens that begin a text in most vocabularies (GPT-NeoX, Llama, Gemma): an ONNX file does not name its own."""
TEXTS, FEW_TEXTS, LENGTH, LIKELY = 24, 4, 96, 40
"""Texts that a model generates, fewer where they only judge 8 bits; their length in tokens; the number of likeliest
tokens to sample from. 2,304 tokens took SmolLM2-135M 20 s of one core. Of its 4 bits without data, 12 and 24 texts
leave a KL of 0.161 and 0.160 on Wikipedia, 0.149 and 0.144 on news, 0.143 and 0.104 on program text;
`python -m tests.bench.language` shows what it is on one text."""
ENOUGH = 17
"""Least tokens of a text that the model could not continue: it then has at least 16 positions."""
HELD_APART = 4
"""Prompts whose second half runs on the cache of the first half, so that calibration also sees full caches."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """The token inputs of a language model.

    ids, mask, positions, segments: names of its integer inputs [B, S], the mask's [B, past + S]; "" for none. caches:
    by name, an empty cache of batch 1, its batch axis and time axis. vocabulary: rows of the embedding table; None
    where unknown. dtypes: of the inputs, by name and in order.
    """

    ids: str
    mask: str
    positions: str
    segments: str
    caches: Mapping[str, tuple[Array, int, int]]
    vocabulary: int | None
    dtypes: Mapping[str, np.dtype[Any]]

    @classmethod
    def of(cls, source: Signature, model: Any = None) -> Prompts | None:
        """The token inputs of a model; None for inputs beside tokens, mask, positions, segments and caches."""
        found = dict.fromkeys(("mask", "positions", "segments", "ids"), "")
        names = {"mask": MASK, "positions": POSITIONS, "segments": SEGMENTS, "ids": TOKENS}  # ids: any other
        caches: dict[str, tuple[Array, int, int]] = {}
        dtypes: dict[str, np.dtype[Any]] = {}
        for info in source.inputs:
            if not info.elem or info.dims is None:
                return None
            dtypes[info.name] = dtype = DType(info.elem).numpy
            role = next((role for role, name in names.items() if name.search(info.name)), None)
            cache = _empty_cache(info, dtype)
            if cache is not None:
                caches[info.name] = cache
            elif role is None or found[role] or dtype.kind not in "iu" or len(info.dims) != 2 or not _is_open(info):
                return None
            else:
                found[role] = info.name
        if not found["ids"]:
            return None
        return cls(**found, caches=caches, vocabulary=_vocabulary(model, found["ids"]), dtypes=dtypes)

    def feed(self, tokens: Array, mask: Array | None = None, caches: Mapping[str, Array] | None = None) -> Feeds:
        """The feeds of tokens [S] or [B, S]. InputError for tokens that the model's table lacks.

        mask: [B, S], 0 for padding, by default none. caches: of earlier tokens, none of them padding; by default empty.
        """
        tokens = np.atleast_2d(np.asarray(tokens))
        if tokens.ndim != 2 or not tokens.size or tokens.dtype.kind not in "iu":
            raise InputError(f"inputs: a prompt is a list of tokens, got {tokens.dtype} of shape {list(tokens.shape)}")
        if self.vocabulary is not None:
            unknown = tokens[(tokens < -self.vocabulary) | (tokens >= self.vocabulary)]
            if unknown.size:
                raise InputError(
                    f"inputs: a prompt holds token {unknown[0]}, and the model's table has {self.vocabulary} rows"
                )
        rows, past = len(tokens), 0
        feeds: Feeds = {self.ids: tokens.astype(self.dtypes[self.ids])}
        for name, (empty, batch, time) in self.caches.items():
            given = np.repeat(empty, rows, axis=batch) if caches is None else caches[name]
            feeds[name], past = given, given.shape[time]
        seen = np.ones((rows, past + tokens.shape[1]), np.int64)
        if mask is not None:
            seen[:, past:] = mask
        if self.mask:
            feeds[self.mask] = seen.astype(self.dtypes[self.mask])
        if self.positions:
            places = np.maximum(np.cumsum(seen, axis=1) - 1, 0)[:, past:]
            feeds[self.positions] = places.astype(self.dtypes[self.positions])
        if self.segments:
            feeds[self.segments] = np.zeros(tokens.shape, self.dtypes[self.segments])
        return {name: feeds[name] for name in self.dtypes}

    def completed(self, feed: Feeds) -> Feeds:
        """The feeds of a tokenizer's sample: tokens, perhaps a mask, no caches; any other sample unchanged."""
        if set(self.dtypes) <= set(feed) or self.ids not in feed or any(name in feed for name in self.caches):
            return feed
        mask = feed.get(self.mask) if self.mask else None
        made = self.feed(np.asarray(feed[self.ids]), None if mask is None else np.atleast_2d(np.asarray(mask)))
        return {**made, **{name: value for name, value in feed.items() if name not in made}}

    def continued(self, tokens: Array, run: Callable[[Feeds], Mapping[str, Any]]) -> Iterator[Feeds]:
        """A prompt [S] in two feeds: its first half on an empty cache, its second half on the first half's cache.

        Of the second half only one token where the model accepts no more on a full cache, as onnxruntime-genai's files
        in half precision; the whole prompt where it accepts none.
        """
        half = len(tokens) // 2
        if not self.caches or half < 1:
            yield self.feed(tokens)
            return
        first = self.feed(tokens[:half])
        caches = self.caches_of(run(first))
        for probed, rest in ((tokens[half : half + 2], tokens[half:]), (tokens[half : half + 1],) * 2):
            with suppress(InputError):
                run(self.feed(probed, caches=caches))
                yield first
                yield self.feed(rest, caches=caches)
                return
        yield self.feed(tokens)

    def caches_of(self, results: Mapping[str, Any]) -> dict[str, Array]:
        """The caches that a run returns, by the names of the inputs that read them in the next run.

        Matched by names without `PREFIXES`, or else by order. InputError where the model does not return one for each.
        """
        kinds = {(empty.dtype, empty.ndim) for empty, _, _ in self.caches.values()}
        left = {name: np.asarray(v) for name, v in results.items() if (np.asarray(v).dtype, np.ndim(v)) in kinds}
        left = {name: array for name, array in left.items() if array.ndim > 3} or left  # scores have 3 axes
        if len(left) != len(self.caches):
            raise InputError(f"inputs: the model takes {len(self.caches)} caches and returns {len(left)}")
        by_part = {PREFIXES.sub("", name): array for name, array in left.items()}
        if by_part.keys() == {PREFIXES.sub("", name) for name in self.caches}:
            return {name: by_part[PREFIXES.sub("", name)] for name in self.caches}
        return dict(zip(self.caches, left.values()))

    def first_tokens(self, feeds: Sequence[Feeds], length: int = 64) -> Iterator[Feeds]:
        """Short prompts from an empty cache: a token of `STARTS`, then the data's own tokens.

        They show the first token's activations even where the data begin mid-text or behind a full cache.
        """
        for start, feed in zip(STARTS, [*feeds] * len(STARTS)):
            tokens = np.asarray(feed[self.ids])[0]
            prompt = np.concatenate([[start], tokens[:length]])
            yield self.feed(prompt[: max(len(tokens), 2)])  # the data may fill all positions

    def written(self, run: Callable[[Feeds], Mapping[str, Any]], rng: np.random.Generator, count: int) -> Array:
        """Texts [count, LENGTH] that the model generates token by token, after `STARTS` and then random first tokens.

        InputError where its results are no scores of tokens.
        """
        assert self.vocabulary is not None
        first = rng.integers(0, self.vocabulary, count)
        first[: len(STARTS)] = np.minimum(STARTS, self.vocabulary - 1)
        texts, feed = first[:, None], self.feed(first[:, None])
        while True:
            try:
                results = run(feed)
            except InputError:  # beyond the model's positions
                if texts.shape[1] < ENOUGH:
                    raise
                return np.asarray(texts[:, :-1])
            scores = next((np.asarray(v) for v in results.values() if np.ndim(v) == 3), None)
            if scores is None or scores.shape[-1] > self.vocabulary:
                raise InputError("inputs: the model returns no scores of tokens")
            texts = np.concatenate([texts, _drawn(scores[:, -1].astype(np.float64), rng)[:, None]], axis=1)
            if texts.shape[1] >= LENGTH:
                return np.asarray(texts)
            feed = self.feed(texts[:, -1:], caches=self.caches_of(results))


def _drawn(scores: Array, rng: np.random.Generator) -> Array:
    """A token for each row of scores [B, V], by their probabilities among the `LIKELY` likeliest."""
    count = min(LIKELY, scores.shape[1])
    likely = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    some = np.take_along_axis(scores, likely, axis=1)
    noise = rng.gumbel(size=some.shape)  # the argmax of scores plus Gumbel noise is a sample of their softmax
    return np.asarray(np.take_along_axis(likely, (some + noise).argmax(axis=1)[:, None], axis=1)[:, 0])


def _empty_cache(info: ValueInfo, dtype: np.dtype[Any]) -> tuple[Array, int, int] | None:
    """(empty cache, batch axis, time axis) of a cache input; None for any other."""
    if dtype.kind != "f" or not CACHE.search(info.name) or info.dims is None or len(info.dims) < 3:
        return None
    open_axes = [k for k, size in enumerate(info.dims) if not isinstance(size, int) or size < 1]
    if len(open_axes) == 1 and info.dims[0] == 1:
        open_axes = [0, *open_axes]
    if len(open_axes) != 2:
        return None
    batch, time = open_axes
    shape = [size if isinstance(size, int) else 1 for size in info.dims]
    shape[batch], shape[time] = 1, 0
    return np.zeros(shape, dtype), batch, time


def _is_open(info: ValueInfo) -> bool:
    """Whether an input [B, S] takes any number of tokens."""
    return info.dims is not None and not isinstance(info.dims[-1], int)


def _vocabulary(model: Any, name: str) -> int | None:
    """Rows of the table from which an input's tokens are gathered; None where no such Gather exists."""
    if not isinstance(model, Model):
        return None
    queue = [value for value in model.graph.inputs if value.name == name]
    while queue:
        value: Value = queue.pop()
        for use in value.uses:
            node = use.node
            if node.op in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten") and use.slot == 0:
                queue.append(node.output)
            table = node.constant(0) if node.op == "Gather" and use.slot == 1 else None
            if table is not None and len(table.shape) == 2:
                return int(table.shape[0])
    return None


def as_tokens(sample: Any) -> Array | None:
    """The tokens of a prompt given as an array or list of whole numbers; None for anything else."""
    ids = getattr(sample, "ids", None)  # of the package tokenizers
    given = ids if isinstance(ids, list) else sample
    is_list = isinstance(given, (list, tuple)) and given and all(isinstance(n, (int, np.integer)) for n in given)
    array = np.asarray(given) if is_list or isinstance(given, np.ndarray) else None
    if array is None or array.ndim not in (1, 2) or array.dtype.kind not in "iu" or not array.size:
        return None
    return array
