"""The feeds that layers are calibrated on, counted, with texts beside those of the caller; and the one to time with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from ....calibration import BATCH, STARTS
from ....compress.context import StageContext
from ....compress.layers.moments import ENOUGH
from ....ir import TensorType, Value
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


OWN_TIMES = 3
"""How often a token of a model's own text counts: 1,152 tokens are 40 % beside ten prompts of 512. Of 32 layers of
SmolLM2-135M at 4 bits, rounded by news and documentation, the error on Wikipedia is with shares of 20, 30, 40, 50 and
60 % as 0.988, 0.980, 0.975, 0.973 and 0.980, on other news as 0.974, 0.992, 1.014, 1.044 and 1.079, where it is 1 with
each token counted once and at most half of the data; `python -m tests.bench.language` shows what it leads to."""


def with_texts_beside(
    feeds: CountedFeeds, options: Quantize, context: StageContext
) -> Iterator[tuple[dict[str, Any], int]]:  # fmt: skip
    """The feeds, each with how often it counts; for stored weights of a decoder behind short prompts that show what a
    text's first token leads to, and for few bits behind text that the model writes itself, too: other texts than the
    data are closer to that. A large model would read all its weights for each token of it."""
    prompts = context.calibration.prompts
    if options.mode == "weights" and prompts is not None and prompts.caches:
        yield from ((feed, 1) for feed in prompts.first_tokens(context.calibration.first(len(STARTS))))
        if options.weight_bits < 8 and not is_large(context.quality.reference):
            yield from ((feed, OWN_TIMES) for feed in context.calibration.own_text())
    yield from ((feed, 1) for feed in feeds)


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
