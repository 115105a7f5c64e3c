"""Converts samples to feeds: from dicts, `(x, y)` pairs, arrays, texts or torch tensors, batched or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..equivalence.feeds import Feeds, as_feed, checked_feed, only_input
from ..equivalence.value_info import Signature, ValueInfo
from ..errors import InputError, one_line
from ..ir import Array
from .prompts import HELD_APART, Prompts, as_tokens

Run = Callable[[Feeds], Mapping[str, Any]]
Tokenizer = Callable[[str], Any]

IGNORED = "calibration: {} ignored, the model has no such input"


class Forms:
    """Turns samples into feeds of a model. `notes`: warnings about the samples seen so far, each once.

    prompts: the model's token inputs, None without any. run: computes the model's results, the source of filled caches.
    tokenizer: turns texts into tokens.
    """

    def __init__(
        self, source: Signature, prompts: Prompts | None = None, run: Run | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:  # fmt: skip
        self.source, self.notes = source, dict[str, None]()
        self.names = [info.name for info in source.inputs]
        self.prompts, self.run, self.tokenizer = prompts, run, tokenizer
        self._apart: dict[bytes, list[Feeds]] = {}

    def feeds(self, sample: Any) -> Iterator[Feeds]:
        """The feeds of one sample, several where it is a batch and the model takes one row at a time. InputError."""
        tokens = self._tokens(sample)
        if tokens is not None:
            yield from self._of_prompt(tokens)
            return
        feed = self.named(sample)
        feed = {info.name: _with_batch(info, feed[info.name]) for info in self.source.inputs if info.name in feed} | {
            name: value for name, value in feed.items() if name not in self.names
        }
        for row in self._rows(feed):
            yield checked_feed(row, self.source, exact=True)

    def named(self, sample: Any) -> Feeds:
        """A sample by input names, without entries that the model has no input for. InputError."""
        if isinstance(sample, (tuple, list)) and sample:
            sample = self._of_pair(sample)
        elif is_array(sample):
            sample = {only_input(self.source).name: sample}
        feed = {name: as_array(value) for name, value in as_feed(sample).items()}
        feed = feed if self.prompts is None else self.prompts.completed(feed)
        extra = [name for name in feed if name not in self.names]
        if not extra or not set(self.names) <= set(feed):
            return feed
        self.notes[IGNORED.format(", ".join(map(repr, extra)) + (" is" if len(extra) == 1 else " are"))] = None
        return {name: feed[name] for name in self.names}

    def _tokens(self, sample: Any) -> Array | None:
        """The tokens of a text, or of a prompt of a model that takes more than tokens. InputError."""
        if isinstance(sample, str):
            if self.prompts is None:
                raise InputError("inputs: a text was given, and the model takes no tokens")
            if self.tokenizer is None:
                raise InputError("inputs: texts need preprocess=, a function that turns a text into tokens")
            sample = self.tokenizer(sample)
            tokens = as_tokens(sample["input_ids"] if isinstance(sample, Mapping) else sample)
            if tokens is None:
                raise InputError(f"inputs: preprocess= made no tokens of a text, but {type(sample).__name__}")
            return tokens
        return as_tokens(sample) if self.prompts is not None and len(self.names) > 1 else None

    def _of_prompt(self, tokens: Array) -> Iterator[Feeds]:
        """The feeds of a prompt; the first few prompts come in two parts, the second behind a cache."""
        assert self.prompts is not None
        key = tokens.tobytes()
        if self.run is None or tokens.ndim > 1 or (key not in self._apart and len(self._apart) >= HELD_APART):
            yield checked_feed(self.prompts.feed(tokens), self.source, exact=True)
            return
        if key not in self._apart:
            self._apart[key] = [*self.prompts.continued(tokens, self.run)]
        yield from self._apart[key]

    def _of_pair(self, sample: Sequence[Any]) -> Any:
        """The inputs of `(x, y)`: a leading dict, or an array for each input in order; the rest, labels, is dropped."""
        given = sample[0]
        if isinstance(given, Mapping):
            rest = len(sample) - 1
        elif len(sample) >= len(self.names) and all(is_array(value) for value in sample[: len(self.names)]):
            given, rest = dict(zip(self.names, sample)), len(sample) - len(self.names)
        else:
            return sample
        if rest:
            self.notes["calibration: what follows the inputs in each sample, such as labels, is ignored"] = None
        return given

    def _rows(self, feed: Feeds) -> Iterator[Feeds]:
        """One feed a row where the model fixes its batch to one and the arrays hold more."""
        single = [p.name for p in self.source.inputs if p.dims and p.dims[0] == 1 and p.name in feed]
        counts = {len(feed[n]) for n in single if isinstance(feed[n], np.ndarray) and feed[n].ndim}
        if len(single) != len(self.names) or len(counts) != 1 or counts <= {0, 1}:
            yield feed
            return
        for row in range(counts.pop()):
            yield {name: value[row : row + 1] for name, value in feed.items()}


def is_array(value: Any) -> bool:
    """Whether `value` is an array or tensor of at least one axis."""
    return getattr(value, "ndim", 0) > 0 and hasattr(value, "dtype")


def as_array(value: Any) -> Any:
    """A torch tensor as an array, on the CPU and without its gradient; any other value unchanged. InputError."""
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:  # bfloat16, which numpy lacks
        return tensor.float().numpy()
    except Exception as error:  # sparse tensors and other forms without an array
        raise InputError(f"inputs: a tensor is no array: {one_line(error)}") from error


def _with_batch(info: ValueInfo, value: Any) -> Any:
    """The sample with a batch axis of one row, where it lacks one and the model's batch is one or open."""
    if not isinstance(value, np.ndarray) or not info.dims or value.ndim != len(info.dims) - 1:
        return value
    takes_one = not isinstance(info.dims[0], int) or info.dims[0] in (-1, 0, 1)
    return value[None] if takes_one and info.has_sizes_of((1, *value.shape)) else value
