"""The feeds that layers are calibrated on, counted, with texts beside those of the caller; and the one to time with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ....calibration import BATCH, STARTS
from ....compress.context import StageContext
from ....compress.layers.moments import ENOUGH
from ....ir import Array, TensorType, Value
from ....onnx_io import is_large
from ..options import Quantize


class CountedFeeds:
    """The calibration feeds, at most `limit`, counted as they pass."""

    def __init__(self, context: StageContext, limit: int | None) -> None:
        self.calibration, self.limit, self.count = context.calibration, limit, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read from the start."""
        for count, feed in enumerate(islice(iter(self.calibration), self.limit), 1):
            self.count = max(self.count, count)
            yield feed


def enough(options: Quantize) -> int:
    """Patches for each unknown of a layer: more for stored weights of few bits, whose errors follow what data show. Of
    32 layers of SmolLM2-135M at 4 bits half as many leave 1 % more error on other texts, and 3 % on like ones."""
    return 4 * ENOUGH if options.mode == "weights" and options.weight_bits < 8 else ENOUGH


OWN_TIMES, USUAL = 2, 0.54
"""How often a token of a model's own text counts beside prose, and the divergence in bits of prose from such text, as
many tokens of each; beside text that diverges more it counts more. 2,304 tokens are 47 % beside ten prompts of 512. For
SmolLM2-135M the divergence is 0.50 to 0.56 of Wikipedia, news and manuals, 0.66 to 0.74 of program text. Rounded to 4
bits by program text, its KL is with own text counted two and three times 0.162 and 0.156 on Wikipedia (without data
0.160), 0.150 and 0.147 on news (0.144), 0.078 and 0.086 on program text (0.104)."""


def with_texts_beside(
    feeds: CountedFeeds, options: Quantize, context: StageContext
) -> Iterator[tuple[dict[str, Any], int]]:  # fmt: skip
    """The feeds, each with how often it counts; for stored weights of a decoder behind short prompts that show what a
    text's first token leads to, and for few bits behind text that the model writes itself, too: other texts than the
    data are closer to that. A large model would read all its weights for each token of it."""
    prompts = context.calibration.prompts
    if options.mode == "weights" and prompts is not None and prompts.caches:
        writes = options.weight_bits < 8 and not is_large(context.quality.reference)
        own = context.calibration.own_text() if writes else []
        tokens = [feed[prompts.ids] for feed in own]
        given = _opening(context.calibration, prompts.ids, sum(ids.size for ids in tokens))
        yield from ((feed, 1) for feed in prompts.first_tokens(given))
        times = times_of_own(tokens, [feed[prompts.ids] for feed in given])
        yield from ((feed, times) for feed in own)
    yield from ((feed, 1) for feed in feeds)


def _opening(feeds: Iterable[dict[str, Any]], name: str, count: int) -> list[dict[str, Any]]:
    """The first feeds, one for each of `STARTS` and as many as hold `count` tokens: each may be a run of the model."""
    read: list[dict[str, Any]] = []
    for feed in feeds:
        read.append(feed)
        if len(read) >= len(STARTS) and sum(one[name].size for one in read) >= count:
            break
    return read


def times_of_own(own: Sequence[Array], data: Iterable[Array]) -> int:
    """How often a token of own text counts: `OWN_TIMES`, in proportion more where data diverge more from it than usual,
    since what they do not show is left to it."""
    if not own:
        return OWN_TIMES
    mine, given = (np.concatenate([ids.ravel() for ids in texts]) for texts in (own, data))
    return max(OWN_TIMES, round(OWN_TIMES * _divergence(mine, given) / USUAL))


def _divergence(a: Array, b: Array) -> float:
    """The Jensen-Shannon divergence in bits of two texts' tokens, as many of each (Lin, "Divergence measures based on
    the Shannon entropy", 1991)."""
    count = min(len(a), len(b))
    _, tokens = np.unique(np.concatenate([a[:count], b[:count]]), return_inverse=True)
    shares = np.stack([np.bincount(part, minlength=tokens.max() + 1) / count for part in np.split(tokens, 2)])
    ratios = np.divide(shares, shares.mean(axis=0), out=np.ones_like(shares), where=shares > 0)
    return float((shares * np.log2(ratios)).sum() / 2)


TIMED = 64
"""Tokens of a decoder's prompt that are timed: SmolLM2-135M takes 0.3 s for them, and is run 14 times. A choice."""


def timing_feed(context: StageContext) -> dict[str, Any]:
    """One sample to time with: a single row where samples are several rows of an open batch, the first tokens of a
    decoder's prompt."""
    feed, prompts = context.calibration.first(1)[0], context.calibration.prompts
    if prompts is not None and prompts.caches and feed[prompts.ids].shape[-1] > TIMED:
        return prompts.feed(feed[prompts.ids][:1, :TIMED])
    ports = {v.name: v for v in context.quality.reference.graph.inputs}
    rows = {len(value) if getattr(value, "ndim", 0) else 0 for value in feed.values()}
    if len(rows) == 1 and 1 < rows.copy().pop() <= BATCH and all(_is_open(ports[name]) for name in feed):
        return {name: value[:1] for name, value in feed.items()}
    return feed


def _is_open(value: Value) -> bool:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    return shape is not None and len(shape) > 0 and not isinstance(shape[0], int)
