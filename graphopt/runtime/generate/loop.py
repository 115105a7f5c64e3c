"""The generation loop: the prompt in one step or in pieces, then a token a step; caches pass on uncopied."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InputError, OptionError
from ...ir import Array
from .choice import Choice
from .decoder import Decoder
from .kept import CacheType

Run = Callable[[Sequence[str], Mapping[str, Any]], list[Any]]
"""Runs a model: the named outputs for the feeds, the first as an array, the others (caches) in a form to feed again."""

_PIECES = (128, 64, 32, 16, 8, 4, 1)
"""Sizes of a prompt's pieces, in tokens: at most ten pieces are below 128, and each reads the weights once. Beyond 128
rows a product gains nothing more (`python -m tests.bench.decoders`)."""


def prompt_of(input_ids: Any, attention_mask: Any = None) -> tuple[Array, Array]:
    """Tokens and mask, int64[batch, tokens]; one prompt may be a flat list. InputError for anything else."""
    try:
        tokens = np.asarray(input_ids)
        mask = np.ones(tokens.shape, np.int64) if attention_mask is None else np.asarray(attention_mask)
    except ValueError as error:  # rows of different lengths
        raise InputError("prompts of one length are needed: pad the shorter ones in front, with a mask") from error
    if tokens.ndim not in (1, 2) or tokens.dtype.kind not in "iu" or not tokens.size:
        raise InputError(f"a prompt is integers [tokens] or [batch, tokens], got {tokens.dtype} {list(tokens.shape)}")
    if mask.dtype.kind not in "biuf":
        raise InputError(f"a mask is numbers in the shape of its tokens, got {mask.dtype}")
    if mask.shape != tokens.shape:
        raise InputError(f"a mask of {list(mask.shape)} for tokens of {list(tokens.shape)}")
    tokens, mask = (array.reshape(-1, tokens.shape[-1]).astype(np.int64) for array in (tokens, mask))
    if not mask[:, -1].all():
        raise InputError("the mask must end in ones: prompts are padded in front")
    return tokens, mask


def ends_of(tokens: int | Iterable[int] | None) -> tuple[int, ...]:
    """The tokens that end a text."""
    return () if tokens is None else (int(tokens),) if isinstance(tokens, (int, np.integer)) else (*map(int, tokens),)


def generated(
    run: Run, decoder: Decoder, tokens: Array, mask: Array, new: int, ends: Collection[int], choose: Choice, *,
    in_pieces: bool = False, kept: CacheType | None = None,
) -> Iterator[Array]:  # fmt: skip
    """The new tokens of each step, int64[batch], in at most `new` steps; an ended row repeats its end token.

    Stops when all rows have given one of `ends`. `in_pieces`: the prompt is read in pieces of a few sizes, for each of
    which there will be a plan. `kept`: how kernels keep the caches, where they do. Raises InputError where prompt and
    new tokens are too long.
    """
    if not isinstance(new, (int, np.integer)) or new < 1:
        raise OptionError(f"max_new_tokens must be a positive number, got {new!r}")
    if decoder.mask is None and not mask.all():
        raise InputError("the model takes no attention_mask: prompts cannot be padded")
    decoder.check_length(tokens.shape[1], new)
    return _steps(run, decoder, tokens, mask, new, ends, choose, _PIECES if in_pieces else (), kept)


def _steps(
    run: Run, decoder: Decoder, tokens: Array, mask: Array, new: int, ends: Collection[int], choose: Choice,
    pieces: Sequence[int], kept: CacheType | None,
) -> Iterator[Array]:  # fmt: skip
    batch, prompt = tokens.shape
    whole = np.ones((batch, prompt + new), np.int64)  # the mask; each step reads a longer prefix
    whole[:, :prompt] = mask
    positions = np.maximum(whole.cumsum(axis=1) - 1, 0)
    caches: Sequence[Any] = decoder.kept(batch, kept == "int8") if kept else decoder.empty(batch)
    pasts = [cache.past for cache in decoder.caches]
    ended = np.zeros(batch, bool)
    last = np.zeros(batch, np.int64)
    begin = 0
    for end in range(prompt, prompt + new):
        for stop in _stops(begin, end, pieces):
            fed = tokens[:, begin - end :][:, : stop - begin]
            feeds = _feeds(decoder, fed, whole[:, :stop], positions[:, begin:stop], begin)
            feeds.update(zip(pasts, caches))
            logits, *caches = run(decoder.outputs, feeds)
            begin = stop
        last = np.where(ended, last, choose(logits if logits.ndim == 2 else logits[:, -1]))
        if ends:
            ended |= np.isin(last, list(ends))
        yield last
        if ended.all():
            return
        tokens = last[:, None]


def _stops(begin: int, end: int, pieces: Sequence[int]) -> Iterator[int]:
    """The end of each piece from `begin` to `end`, largest pieces first."""
    for size in pieces:
        while end - begin >= size:
            begin += size
            yield begin
    if begin < end:
        yield end


def _feeds(decoder: Decoder, tokens: Array, mask: Array, positions: Array, begin: int) -> dict[str, Any]:
    """The feeds of a step but the caches, each array contiguous and of its input's type."""
    feeds = {decoder.tokens.name: tokens.astype(decoder.tokens.dtype)}
    if decoder.mask is not None:
        feeds[decoder.mask.name] = mask.astype(decoder.mask.dtype)
    if decoder.positions is not None:
        if decoder.positions.rank == 1:
            positions = np.arange(begin, begin + tokens.shape[1])
        feeds[decoder.positions.name] = positions.astype(decoder.positions.dtype)
    return {name: np.ascontiguousarray(array) for name, array in feeds.items()}
